"""Every public parser and setter takes whatever comes, or raises an error of the product that names what is wrong."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import semdrivers
from semdrivers import AutofocusResult, AutofocusSettings, FocusStep, Range, ScanMode, SemDriversError
from semdrivers.connection import flag_option, split_url, whole_option
from semdrivers.files import (
    conditions_of,
    decimal,
    decoded,
    page_count,
    plain,
    read_pixels,
    read_table,
    vendor_conditions,
)
from semdrivers.focus import record_of_frame
from semdrivers.instruments import SETTINGS_VARIABLE, Instrument, add_instrument, read_instruments
from semdrivers.microscope import checked_limits, number, whole_number, within
from semfocus_plugin import calibration, labelling, networks, tiles

BRACKETS = "[" * 100_000
TEXTS = [
    "",
    "[::",
    "[::1]:x",
    BRACKETS,
    "{" * 9,
    "1e999",
    "nan",
    "-0",
    "\udc80",
    "\x1b]0;x\x07",
    "%zz",
    "a=b&",
    "\0",
    "٣",
]
TEXTS += [
    "em30://[::",
    "em30://h:99999999",
    "em30://h:-1",
    f"em30://h:{10**400}",
    "em30://?usb=::",
    "emulator://x?seed=--",
]
TEXTS += ["tescan://h:1?working_distance=:", "replay://", "series://\udc80", "emulator://image?path=&pixel_size=nan"]
NUMBERS = [10**400, -(10**400), math.nan, math.inf, -math.inf, 0, -1, 5e-324, 1e308, True, 2**63, complex(1, 1)]
OTHERS = [None, b"\xff", [], {}, (), (1, 2, 3), object(), float, [[[]]], {"a": {}}]
ENCODED = [
    b"",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    "µ;°\n1,5".encode("cp1252"),
    b"\0" * 99,
    BRACKETS.encode(),
    b"II*\0" + b"\xff" * 99,
]
ENCODED += [
    b'{"a": ' * 30_000,
    b'{"format": 1, "models": [[]]}',
    b"1" + b"0" * 5000,
    b'{"x": NaN}',
    b"<a>" * 5000,
    b"MM\0*\0\0\0\x08\0\0",
]
ENCODED += [
    b'{"url": 1}',
    b"3",
    b'"text"',
    b"null",
    b'{"lab": {"url": "em30://h", "max_travel": 1' + b"0" * 400 + b"}}",
    b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
]
ENCODED += [
    b'file,magnification,label\n"' + b"x" * 200_000,
    b"sep=\n",
    b"file,magnification,label\na,1e999,2",
    b"BM" + b"\xff" * 60,
]

texts = st.sampled_from(TEXTS) | st.text(max_size=40)
values = st.sampled_from([*TEXTS, *NUMBERS, *OTHERS]) | st.floats() | st.integers() | st.text(max_size=9)
contents = st.sampled_from(ENCODED) | st.binary(max_size=300)


def parsed(work, *arguments):
    """Run a parser; any error but the product's own fails the test."""
    with suppress(SemDriversError):
        work(*arguments)


def result_of(name, value):
    fields = {"status": "refused", "reason": "", "working_distance": 1.0, "start_working_distance": 1.0, "score": 1.0}
    fields |= {"confidence": 0.0, "frames": 1, "elapsed": 1.0, "method": "paper"}
    return AutofocusResult(**{**fields, name: value})


SETTERS = {
    "number": partial(number, "x"),
    "within": lambda value: within("x", value, 0, 1),
    "whole number": lambda value: whole_number("x", value, 0),
    "travel": lambda value: checked_limits(value, None),
    "bounds": lambda value: checked_limits(None, value),
    "range": lambda value: Range(0.0, 1.0).check("x", value),
    "flag option": lambda value: flag_option("x://", "flag", value),
    "whole option": lambda value: whole_option("x://", "count", value),
    "instrument": lambda value: Instrument("em30://h", value, value),
    "name of an instrument": lambda value: add_instrument(value, Instrument("em30://h"), overwrite=True),
    "address": lambda value: semdrivers.connect(value) if not isinstance(value, str) else None,
    **{
        f"setting {name}": lambda value, name=name: AutofocusSettings(**{name: value})
        for name in AutofocusSettings.__dataclass_fields__
    },
    **{
        f"result {name}": lambda value, name=name: result_of(name, value)
        for name in ("status", "working_distance", "score", "confidence", "frames", "elapsed")
    },
    **{
        f"scan mode {name}": lambda value, name=name: ScanMode(**{"name": "A", "width": 1, "height": 1, name: value})
        for name in ("name", "width", "height", "dwell")
    },
}


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path / "settings"))


@pytest.mark.parametrize("setter", SETTERS)
def test_setters_raise_named_errors_alone(setter, own_settings):
    @seed(1)
    @settings(max_examples=40, database=None)
    @given(values)
    def check(value):
        parsed(SETTERS[setter], value)

    check()
    for value in (*TEXTS, *NUMBERS, *OTHERS):
        parsed(SETTERS[setter], value)


def opened(url):
    """Connect where that can come to nothing but an error: no host is asked."""
    semdrivers.connect(url).close()


PARSERS = {
    "url": lambda text: split_url(f"x://{text}", {}, ("seed", "usb"), "it"),
    "whole url": lambda text: opened(text) if "://" not in text or text in TEXTS else None,
    "scan mode": ScanMode.parse,
    "conditions": conditions_of,
    "decimal": decimal,
    "record": lambda text: record_of_frame({"working_distance": 1.0, "status": text}, 1.0),
    "step": lambda text: FocusStep(0, text, 1.0, 1.0, 1.0, 1.0, 1.0).frame,
}


@pytest.mark.parametrize("parser", PARSERS)
def test_parsers_of_text_raise_named_errors_alone(parser, own_settings):
    @seed(1)
    @settings(max_examples=60, database=None)
    @given(texts)
    def check(text):
        parsed(PARSERS[parser], text)

    check()
    for text in TEXTS:
        parsed(PARSERS[parser], text)


def settings_of(path):
    folder = Path(os.environ[SETTINGS_VARIABLE])
    folder.mkdir(exist_ok=True)
    path.replace(folder / "instruments.json")
    return read_instruments()


def models_of(path):
    path.replace(path.with_name("manifest.json"))
    return networks.load(path.parent)


def session_of(path):
    path.replace(path.with_name("session.jsonl"))
    opened(f"replay://{path.parent}")


READERS = {
    "text": lambda path: decoded(path.read_bytes()),
    "picture": read_pixels,
    "pages": page_count,
    "image": semdrivers.read_image,
    "conditions of a maker": lambda path: vendor_conditions(path, 320, 240),
    "table": read_table,
    "sheet": labelling.read_sheet,
    "calibration": calibration.load,
    "focus map": semdrivers.FocusMap.load,
    "plan of tiles": tiles.Plan.load,
    "instruments": settings_of,
    "models": models_of,
    "session": session_of,
    "series": lambda path: opened(f"series://{path.parent}"),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_files_raise_named_errors_alone(reader, tmp_path):
    path = tmp_path / "file.tif"

    @seed(1)
    @settings(max_examples=40, database=None)
    @given(contents)
    def check(content):
        path.write_bytes(content)
        parsed(READERS[reader], path)

    check()
    for content in ENCODED:
        path.write_bytes(content)
        parsed(READERS[reader], path)


ODD = [10**400, math.nan, -math.inf, 0, 1e308, None, "1e999", [], [10**400], [None], {"x": 1}, [[10**400, 1], [1, 1]]]


def from_file(path, load):
    """Return what reads an object of JSON where it stands in a file."""

    def read(value):
        path.write_text(json.dumps(value))
        return load(path)

    return read


def records(folder):
    """Yield what is read from files and from other programs: its name, an object of JSON, and what reads such a one."""
    step = {"index": 0, "phase": "search", "working_distance": 1.0, "magnification": 1.0, "score": 1.0}
    step |= {"variance": 1.0, "entropy": 1.0, "astigmatism": [0.0, 0.0, 1.0], "posterior": [1.0, 2.0]}
    result = result_of("frames", 1).to_dict()
    yield "step", step, FocusStep.from_dict
    yield "result", result, AutofocusResult.from_dict
    with semdrivers.connect("emulator://tin-balls?seed=1") as microscope:
        yield "capabilities", plain(microscope.capabilities), semdrivers.Capabilities.from_dict
    known = semdrivers.FocusMap(tolerance=0.01)
    known.add(0, 0, 15.0, depth_of_field=0.02, magnification=1000)
    value = json.loads(known.save(folder / "map.json").read_text())
    read = from_file(folder / "map.json", lambda path: semdrivers.FocusMap.load(path).predict(0, 0))
    yield "map", value, read
    yield "point", value["points"][0], lambda point: read({**value, "points": [point]})
    made = tiles.plan_tiles((2, 2), None, 0.1, place=(0, 0), field=(1, 1), magnification=1000, mode=ScanMode.FAST)
    made.save(folder / "plan.json")
    value = json.loads((folder / "plan.json").read_text())
    yield "plan", value, from_file(folder / "plan.json", lambda path: tiles.Plan.load(path).tiles)
    aperture = calibration.Calibration("EM", "1", "1", "", 0.045, 0.002, 15.0, 3000.0, 100.0, 0.05, 21)
    value = json.loads(calibration.save(aperture, folder / "aperture.json").read_text())
    yield "aperture", value, from_file(folder / "aperture.json", lambda path: calibration.load(path).to_dict())


def test_records_with_one_odd_value_raise_named_errors_alone(tmp_path):
    for name, whole, read in records(tmp_path):
        read(whole)
        for field in whole:
            for value in ODD:
                try:
                    read({**whole, field: value})
                except SemDriversError:
                    continue
                except Exception as error:
                    pytest.fail(f"{name}: {field} = {str(value)[:40]} raised {type(error).__name__}: {error}")


def test_setters_of_a_microscope_raise_named_errors_alone_and_move_nothing():
    with semdrivers.connect("emulator://tin-balls?seed=1") as microscope:
        before = microscope.working_distance, microscope.magnification, microscope.stigmator, microscope.stage_position
        for value in [each for each in (*TEXTS, *NUMBERS, *OTHERS) if each not in (0, -1, True, 1e308, 5e-324)]:
            for name in ("working_distance", "magnification", "brightness", "contrast", "stigmator", "beam_on"):
                with pytest.raises(SemDriversError):
                    setattr(microscope, name, value)
            for method in (microscope.move_stage, microscope.orient_stage):
                with pytest.raises(SemDriversError):
                    method(value, value)
            with pytest.raises(SemDriversError):
                microscope.acquire(value)
        after = microscope.working_distance, microscope.magnification, microscope.stigmator, microscope.stage_position
        assert after == before
