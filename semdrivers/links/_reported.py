"""What an instrument of our protocol reports of itself in HELLO, as its `Capabilities`."""

from __future__ import annotations

from firmware_protocol.messages import HelloReply
from firmware_protocol.profile import PROBE_DIAMETER
from semdrivers.errors import ProtocolError
from semdrivers.image import ScanMode
from semdrivers.microscope import Capabilities, Range


def limits_of(hello: HelloReply) -> dict[str, Range]:
    """Return the limits of every parameter by its name."""
    return {each.name: Range(each.minimum, each.maximum, each.step) for each in hello.capabilities}


def capabilities_of(name: str, hello: HelloReply) -> Capabilities:
    """Return what a driver reports of the instrument; `name` is for messages.

    Raises
    ------
    ProtocolError
        When working distance, magnification or scan modes are missing.
    """
    limits = limits_of(hello)
    fastest_first = sorted(hello.scan_modes, key=lambda mode: mode.frame_time)
    missing = [needed for needed in ("working_distance", "magnification") if needed not in limits]
    if missing or not fastest_first:
        raise ProtocolError(
            f"{name} does not report its {' and '.join(missing) or 'scan modes'}; its firmware is {hello.firmware}"
        )
    return Capabilities(
        working_distance=limits["working_distance"],
        magnification=limits["magnification"],
        scan_modes=tuple(ScanMode(mode.name, mode.width, mode.height) for mode in fastest_first),
        model=hello.model,
        serial=hello.serial,
        firmware=hello.firmware,
        probe_diameter=PROBE_DIAMETER,
        beam_current=limits["beam_current"].maximum if "beam_current" in limits else None,
        dwell_times=tuple(mode.dwell_time for mode in fastest_first),
        stigmator=limits.get("stigmator_x"),
        stigmator_matrix=((1.0, 0.0), (0.0, 1.0)) if "stigmator_x" in limits else None,
    )
