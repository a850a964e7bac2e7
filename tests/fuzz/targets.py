"""What atheris feeds: every parser of bytes from a wire or a file, as a function of bytes.

::

    python tests/fuzz/targets.py control -max_total_time=60
    python tests/fuzz/targets.py picture -runs=100000 corpus/

The first word names a target, the rest are options of libFuzzer. A target returns, whatever it gets; an error that is
none of the product's or of the codec's own ends the run with the input that made it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["firmware_protocol", "semdrivers", "semfocus_plugin"]):
    from firmware_protocol import bridge, sharksem, stream, zem
    from firmware_protocol.control import Decoder, encode
    from firmware_protocol.frame_assembly import FrameAssembler
    from semdrivers.connection import split_url
    from semdrivers.em30._address import parse_address
    from semdrivers.errors import SemDriversError
    from semdrivers.files import parse_json, read_pixels, read_table, vendor_conditions
    from semdrivers.links import parse_target


def control(data: bytes) -> None:
    """The control channel, in two pieces and in one: what is decoded is the same, and survives the wire."""
    whole, pieces = Decoder(), Decoder()
    items = whole.feed(data)
    cut = data[0] % (len(data) + 1) if data else 0
    assert pieces.feed(data[:cut]) + pieces.feed(data[cut:]) == items
    for item in items:
        if hasattr(item, "message"):
            assert repr(Decoder().feed(encode(item))) == repr([item])
    whole.abandon()


def frames(data: bytes) -> None:
    """The image stream."""
    assembler = FrameAssembler()
    for start in range(0, len(data), 64):
        assembler.feed(data[start : start + 64])
    for part in (stream.Leader, stream.Trailer):
        with suppress(stream.StreamError):
            part.decode(data)


def bridged(data: bytes) -> None:
    """Heads of the USB bridge."""
    for decode in (bridge.BridgeRequest.decode, bridge.BridgeResponse.decode, bridge.Attachment.decode_all):
        with suppress(bridge.BridgeError):
            decode(data)


def tescan(data: bytes) -> None:
    """SharkSEM messages."""
    for decode in (sharksem.decode_head, sharksem.decode_pixels):
        with suppress(ValueError):
            decode(data)
    with suppress(ValueError):
        sharksem.decode_head(data.ljust(sharksem.HEAD_SIZE, b"\0")[: sharksem.HEAD_SIZE])
    reader = sharksem.Reader(data)
    with suppress(ValueError):
        reader.text(), reader.number(), reader.array()
    sharksem.parse_map(data.decode("latin-1"))


def zeptools(data: bytes) -> None:
    """Datagrams of a ZEM."""
    with suppress(ValueError):
        zem.decode(data)


def url(data: bytes) -> None:
    """Addresses."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (
        lambda: split_url(text, {}, (), "x"),
        lambda: parse_address(f"em30://{text}", {}),
        lambda: parse_target(text),
    ):
        with suppress(SemDriversError):
            parse()


def json(data: bytes) -> None:
    """JSON."""
    with suppress(SemDriversError, ValueError):
        parse_json(data.decode("utf-8", "replace"))


def _of_a_file(parse: Callable[[Path], object], suffix: str) -> Callable[[bytes], None]:
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / f"input{suffix}"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(SemDriversError):
            parse(path)

    return target


TARGETS: dict[str, Callable[[bytes], None]] = {
    "control": control,
    "frames": frames,
    "bridge": bridged,
    "tescan": tescan,
    "zem": zeptools,
    "url": url,
    "json": json,
    "table": _of_a_file(lambda path: list(read_table(path)), ".csv"),
    "picture": _of_a_file(read_pixels, ".tif"),
    "vendor": _of_a_file(lambda path: vendor_conditions(path, 64, 48), ".tif"),
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
