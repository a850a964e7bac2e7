"""Every fault of the catalogue against the shipped driver, over the wires: it recovers, or raises the named error."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import semdrivers
from semdrivers.em30 import WaitingTimes
from semdrivers.emulator import Emulator
from semdrivers.emulator.wires import FAULTS, FaultRule, Faults, Occasion, parse_faults
from semdrivers.errors import HardwareFault, InterlockError, InvalidParameterError, TransportError

PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)
HELLO, SUBSCRIBE = 1, 2
FIRST_COMMAND = 3
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "faults.md"


HURRY = WaitingTimes(frame=1.0, replug=1.0)
"""What will not come is not waited for long."""
HURRY_TO_SETTLE = WaitingTimes(frame=1.0, replug=1.0, settling=0.5)
PATIENT = WaitingTimes(frame=600.0)


def emulator(faults: str, **options):
    """The ideal column, whose frames depend on nothing but number and settings."""
    return Emulator(PICTURE, pixel_size=50.0, seed=3, working_distance=14.0, preset="ideal", faults=faults, **options)


def is_genuine(running: Emulator, image: semdrivers.Image) -> bool:
    """Whether the pixels are those that the column drew under the conditions that the frame tells."""
    conditions = dataclasses.replace(
        running.instrument.conditions(),
        working_distance=image.working_distance,
        magnification=image.magnification,
        frame_id=image.frame_id,
        beam_on=True,
    )
    return np.array_equal(image.pixels, running.column.render(conditions))


def spoiled_frames(running: Emulator) -> int:
    """How many of the frames were spoiled before they came to the wires."""
    return sum(count for name, count in running.faults.happened.items() if FAULTS[name].shows)


def work(running: Emulator, microscope) -> None:
    """What a host does: move, look, move, look; all of it must be right."""
    for target in (14.5, 13.75, 14.25):
        microscope.working_distance = target
        assert microscope.working_distance == target
        before = spoiled_frames(running)
        image = microscope.acquire()
        assert is_genuine(running, image) == (spoiled_frames(running) == before)
        if not running.faults.happened["knob-turned"]:
            assert image.working_distance == target


def executed_names(path: Path) -> list[str]:
    """Return the faults that a module of the emulator carries out: names in `case`, or keys of a table."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    cases = [node.value for node in ast.walk(tree) if isinstance(node, ast.MatchValue)]
    keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    return [node.value for node in (*cases, *keys) if isinstance(node, ast.Constant) and node.value in FAULTS]


def test_every_fault_is_executed_by_exactly_one_place():
    folder = Path(semdrivers.__file__).parent / "emulator"
    executed = [name for path in folder.rglob("*.py") if path.name != "_faults.py" for name in executed_names(path)]
    assert sorted(executed) == sorted(FAULTS)


INDEX = {Occasion.SCAN: 2, Occasion.FRAME: 2, Occasion.ANSWER: 6, Occasion.COMMAND: 3}


@pytest.mark.parametrize("name", FAULTS)
def test_the_driver_recovers_or_raises_the_named_error(name):
    fault = FAULTS[name]
    waiting = HURRY_TO_SETTLE if name == "settle-never-ends" else HURRY
    with (
        emulator(f"{name}@{INDEX[fault.occasion]}") as running,
        semdrivers.connect(running.url, waiting=waiting) as microscope,
    ):
        if fault.error:
            with pytest.raises(getattr(semdrivers, fault.error)):
                work(running, microscope)
        else:
            work(running, microscope)
        assert running.faults.happened[name] == 1


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name].occasion is Occasion.ANSWER])
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_answers_over_a_serial_line(name):
    with (
        emulator(f"{name}@6", serial=True) as running,
        semdrivers.connect(running.serial_url, waiting=HURRY) as microscope,
    ):
        work(running, microscope)
        assert running.faults.happened[name] == 1


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name].occasion is Occasion.FRAME])
def test_the_first_frame_of_all(name):
    with emulator(f"{name}@1") as running, semdrivers.connect(running.url, waiting=HURRY) as microscope:
        if FAULTS[name].error:
            with pytest.raises(TransportError):
                microscope.acquire()
        else:
            assert is_genuine(running, microscope.acquire())


@pytest.mark.parametrize("name", ["control-lose", "control-split", "control-corrupt", "control-duplicate"])
def test_the_first_answer_of_all(name):
    with emulator(f"{name}@{HELLO}") as running, semdrivers.connect(running.url, waiting=HURRY) as microscope:
        work(running, microscope)


@pytest.mark.parametrize("bit", range(0, 8 * (64 + 76800 + 32), 40_003))
def test_no_bit_of_a_frame_can_turn_without_being_found(bit, monkeypatch):
    monkeypatch.setattr(Faults, "place", lambda self, size: bit)
    with emulator("usb-flip@1") as running, semdrivers.connect(running.url, waiting=HURRY) as microscope:
        image = microscope.acquire()
        assert image.frame_id > 1
        assert is_genuine(running, image)


def test_nothing_moves_twice_when_an_answer_is_lost():
    with emulator("control-lose:0.3") as running, semdrivers.connect(running.url, waiting=HURRY) as microscope:
        moves = []
        running.instrument.listen(moves.append)
        for target in (14.1, 14.2, 14.3):
            microscope.working_distance = target
        assert [event.value for event in moves] == [14.1, 14.2, 14.3]
        assert running.faults.happened["control-lose"] > 0


def test_a_dropped_frame_does_not_wait_for_its_time_limit():
    with emulator("usb-drop@2") as running, semdrivers.connect(running.url, waiting=PATIENT) as microscope:
        microscope.acquire()
        microscope.acquire()
        assert microscope.frames_lost == 1


@pytest.mark.parametrize(
    ("name", "error"), [("beam-blanked", InterlockError), ("filament-dies", semdrivers.HardwareFault)]
)
def test_a_lost_beam_does_not_wait_for_its_time_limit(name, error):
    with (
        emulator(f"{name}@1") as running,
        semdrivers.connect(running.url, waiting=PATIENT) as microscope,
        pytest.raises(error),
    ):
        microscope.acquire()


def test_after_a_reset_the_beam_is_off_and_a_new_connection_works():
    with emulator(f"control-reset@{FIRST_COMMAND}") as running:
        with semdrivers.connect(running.url, waiting=HURRY) as microscope:
            with pytest.raises(TransportError):
                microscope.working_distance = 14.5
            with pytest.raises(InterlockError, match="the beam, which is off"):
                microscope.acquire()
        with semdrivers.connect(running.url, waiting=HURRY) as microscope:
            with pytest.raises(InterlockError):
                microscope.acquire()
            microscope.beam_on = True
            work(running, microscope)


def test_a_command_after_one_that_never_settled():
    with (
        emulator("settle-never-ends@1") as running,
        semdrivers.connect(running.url, waiting=HURRY_TO_SETTLE) as microscope,
    ):
        with pytest.raises(TransportError, match=r"setting working_distance to 14\.5 within 0\.5 s"):
            microscope.working_distance = 14.5
        work(running, microscope)


@pytest.mark.parametrize("realtime", [False, True])
def test_a_command_that_times_out_is_told_and_stands(realtime):
    with (
        emulator("settle-times-out@1", realtime=realtime) as running,
        semdrivers.connect(running.url, waiting=HURRY) as microscope,
    ):
        with pytest.raises(HardwareFault, match=r"did not finish setting working_distance to 14\.5: .*read back"):
            microscope.working_distance = 14.5
        assert microscope.working_distance == 14.5
        assert microscope.acquire().working_distance == 14.5
        microscope.working_distance = 14.75
        assert microscope.acquire().working_distance == 14.75


def test_a_scan_that_times_out_leaves_no_old_frame_behind():
    with emulator("settle-times-out@1") as running, semdrivers.connect(running.url, waiting=HURRY) as microscope:
        with pytest.raises(HardwareFault, match="did not finish a scan"):
            microscope.acquire()
        microscope.working_distance = 14.5
        assert microscope.acquire().working_distance == 14.5


def test_a_knob_turned_shows_in_the_frame():
    with emulator("knob-turned@1") as running, semdrivers.connect(running.url, waiting=HURRY) as microscope:
        microscope.working_distance = 14.0
        assert microscope.acquire().working_distance == 14.1
        assert microscope.working_distance == 14.1


RAIN = ",".join(
    f"{name}:{0.02 if fault.occasion is Occasion.ANSWER else 0.08}"
    for name, fault in FAULTS.items()
    if not (fault.error or fault.shows) and name not in ("usb-replug", "control-late", "knob-turned")
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_in_a_rain_of_faults_no_bad_frame_is_returned(seed):
    with Emulator(PICTURE, pixel_size=50.0, seed=seed, working_distance=14.0, preset="ideal", faults=RAIN) as running:
        frames = failures = 0
        microscope = semdrivers.connect(running.url, waiting=HURRY)
        for turn in range(12):
            target = 14.0 + turn / 100
            try:
                microscope.working_distance = target
                image = microscope.acquire()
            except TransportError:
                failures += 1
                microscope.close()
                microscope = semdrivers.connect(running.url, waiting=HURRY)
                continue
            assert is_genuine(running, image)
            assert image.working_distance == pytest.approx(target)
            frames += 1
        microscope.close()
        assert running.faults.happened.total() > 3
        assert frames >= 9


def test_faults_come_with_the_url_and_leave_nothing_behind():
    with semdrivers.connect("emulator://featureless?seed=1&faults=usb-drop@1,control-duplicate:0.5") as microscope:
        assert microscope.acquire().frame_id == 2


# The language


def test_rules():
    assert parse_faults("") == parse_faults("  ") == ()
    assert parse_faults("usb-drop:0.01, control-reset@5,usb-drop@2") == (
        FaultRule("usb-drop", probability=0.01),
        FaultRule("control-reset", index=5),
        FaultRule("usb-drop", index=2),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("usb-drpo@1", "did you mean 'usb-drop'"),
        ("nonsense:0.1", "There are usb-drop, usb-timeout"),
        ("usb-drop", "say when: usb-drop:0.01"),
        ("usb-drop:", "say when"),
        ("usb-drop:0", "above 0, at most 1"),
        ("usb-drop:1.5", "above 0, at most 1"),
        ("usb-drop:nan", "above 0, at most 1"),
        ("usb-drop:-0.1", "above 0, at most 1"),
        ("usb-drop@0", "whole number from 1"),
        ("usb-drop@1.5", "whole number from 1"),
        ("usb-drop@", "whole number from 1"),
        ("usb-drop@1,", "no fault ''"),
        (",", "no fault ''"),
        (5, "must be a text"),
        (None, "must be a text"),
    ],
)
def test_what_is_no_rule_is_refused_before_anything_is_started(text, message):
    with pytest.raises(InvalidParameterError, match=message):
        Emulator("featureless", faults=text)


@given(st.text())
def test_any_text_is_rules_or_a_named_error(text):
    try:
        rules = parse_faults(text)
    except InvalidParameterError:
        return
    assert all(rule.name in FAULTS for rule in rules)


def test_the_same_seed_gives_the_same_faults():
    def story(seed):
        faults = Faults("usb-drop:0.3,usb-flip:0.2,control-lose:0.5", seed)
        return [faults.at(occasion) for _ in range(50) for occasion in (Occasion.FRAME, Occasion.ANSWER)]

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_rules_do_not_disturb_one_another():
    alone, together = Faults("usb-drop:0.3", 1), Faults("usb-drop:0.3,usb-flip:0.5", 1)
    for _ in range(100):
        assert ("usb-drop" in alone.at(Occasion.FRAME)) == ("usb-drop" in together.at(Occasion.FRAME))


def test_an_index_happens_once():
    faults = Faults("usb-drop@2")
    assert [faults.at(Occasion.FRAME) for _ in range(4)] == [(), ("usb-drop",), (), ()]
    assert not faults.at(Occasion.ANSWER)
    assert faults.happened == {"usb-drop": 1}
    assert faults
    assert not Faults()


def seen(fault):
    if fault.error:
        return f"`{fault.error}`"
    return "gets it" if fault.shows else "recovers"


def test_the_reference_is_the_catalogue():
    rows = [f"| `{name}` | {fault.what} | {fault.outcome} | {seen(fault)} |" for name, fault in FAULTS.items()]
    told = [line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert told == rows
