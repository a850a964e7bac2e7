"""What `semdrivers.autofocus` holds, whatever the plugin and whatever the microscope."""

from __future__ import annotations

import json
import math
import threading

import pytest

import semdrivers
from semdrivers import AutofocusSettings, FocusStep
from semdrivers.focus import Drift

STEP = FocusStep(0, "search", 12.0, 2000.0, 8.5, 0.1, 5.0)


def moved(status):
    """Return a method that moves lens and magnification and then ends with `status`."""

    def focus(microscope, settings, progress, cancel):
        microscope.magnification = 500
        microscope.working_distance = 13.25
        return {"status": status, "trace": (STEP,)}

    return focus


def test_a_foreign_microscope_of_five_members_is_focused(foreign, offer_method):
    offer_method(moved("focused"))
    result = semdrivers.autofocus(foreign, method="test-method")
    assert result.focused
    assert result.working_distance == foreign.working_distance == 13.25
    assert foreign.magnification == 2000, "the magnification is put back even after success"


@pytest.mark.parametrize("status", ["refused", "cancelled"])
def test_the_start_is_restored_unless_focused(foreign, offer_method, status):
    offer_method(moved(status))
    result = semdrivers.autofocus(foreign, method="test-method")
    assert result.status == status
    assert (foreign.working_distance, foreign.magnification) == (12.0, 2000.0)
    assert result.working_distance == 12.0, "the result tells where the lens is, not where it was"


def test_the_working_distance_stays_if_restoring_is_declined(foreign, offer_method):
    offer_method(moved("refused"))
    result = semdrivers.autofocus(foreign, method="test-method", restore_on_failure=False)
    assert result.working_distance == foreign.working_distance == 13.25
    assert foreign.magnification == 2000.0


@pytest.mark.parametrize("error", [RuntimeError("lens supply"), KeyboardInterrupt(), semdrivers.TransportError("gone")])
def test_the_start_is_restored_after_any_exception(foreign, offer_method, error):
    def focus(microscope, settings, progress, cancel):
        microscope.magnification = 500
        microscope.working_distance = 13.25
        raise error

    offer_method(focus)
    with pytest.raises(type(error)):
        semdrivers.autofocus(foreign, method="test-method")
    assert (foreign.working_distance, foreign.magnification) == (12.0, 2000.0)


@pytest.mark.parametrize("name", ["working_distance", "magnification"])
def test_a_start_that_two_reads_disagree_on_is_named_and_nothing_moves(foreign_type, offer_method, name):
    reads = []
    honest = getattr(foreign_type, name)

    class LiesOnce(foreign_type):
        pass

    def read(self):
        reads.append(honest.fget(self))
        return reads[-1] * (1.02 if len(reads) == 1 else 1.0)

    setattr(LiesOnce, name, honest.getter(read))
    microscope = LiesOnce()
    offer_method(moved("refused"))
    with pytest.raises(semdrivers.DeviceError, match=f"{name.replace('_', ' ')} of .* with nothing set in between"):
        semdrivers.autofocus(microscope, method="test-method")
    assert (microscope.working_distance, microscope.magnification) == (12.0, 2000.0)


def test_a_result_that_two_reads_disagree_on_is_named_and_the_start_is_restored(foreign_type, offer_method):
    class LiesInTheEnd(foreign_type):
        lies = 0

        def read(self):
            self.lies -= 1
            return foreign_type.working_distance.fget(self) * (1e-3 if self.lies == 0 else 1.0)

        working_distance = foreign_type.working_distance.getter(read)

    def focus(microscope, settings, progress, cancel):
        result = moved("focused")(microscope, settings, progress, cancel)
        microscope.lies = 2
        return result

    microscope = LiesInTheEnd()
    offer_method(focus)
    with pytest.raises(semdrivers.DeviceError, match=r"working distance of .* with nothing set in between"):
        semdrivers.autofocus(microscope, method="test-method")
    assert (microscope.working_distance, microscope.magnification) == (12.0, 2000.0)


def test_what_could_not_be_restored_is_noted_and_the_rest_is_restored(foreign_type, offer_method):
    class Stuck(foreign_type):
        broken = False

        @property
        def magnification(self):
            return self._magnification

        @magnification.setter
        def magnification(self, value):
            if self.broken:
                raise semdrivers.HardwareFault("the scan coils do not answer")
            self._magnification = value

    def focus(microscope, settings, progress, cancel):
        microscope.working_distance = 13.25
        microscope.broken = True
        raise RuntimeError("the first failure")

    offer_method(focus)
    microscope = Stuck()
    with pytest.raises(RuntimeError, match="the first failure") as caught:
        semdrivers.autofocus(microscope, method="test-method")
    assert microscope.working_distance == 12.0
    assert any("scan coils" in note for note in caught.value.__notes__)


def test_a_second_run_on_one_microscope_is_busy_and_the_first_goes_on(foreign, offer_method):
    begun, go_on = threading.Event(), threading.Event()

    def focus(microscope, settings, progress, cancel):
        begun.set()
        assert go_on.wait(10)
        return {}

    offer_method(focus)
    results = []
    first = threading.Thread(target=lambda: results.append(semdrivers.autofocus(foreign, method="test-method")))
    first.start()
    try:
        assert begun.wait(10)
        with pytest.raises(semdrivers.BusyError, match="ForeignMicroscope"):
            semdrivers.autofocus(foreign, method="test-method")
    finally:
        go_on.set()
        first.join(10)
    assert [result.status for result in results] == ["focused"]
    assert semdrivers.autofocus(foreign, method="test-method").focused, "the microscope is free again"


def test_two_microscopes_do_not_wait_for_each_other(foreign, foreign_type, offer_method):
    other = foreign_type()

    def focus(microscope, settings, progress, cancel):
        if microscope is foreign:
            assert semdrivers.autofocus(other, method="test-method").focused
        return {}

    offer_method(focus)
    assert semdrivers.autofocus(foreign, method="test-method").focused


@pytest.mark.parametrize("missing", ["capabilities", "working_distance", "magnification", "acquire", "close"])
def test_a_missing_member_is_named_before_any_io(foreign_type, missing):
    members = {name: value for name, value in vars(foreign_type).items() if name != missing}
    microscope = type("Incomplete", (), members)()
    with pytest.raises(semdrivers.InvalidParameterError, match=f"Incomplete is no Microscope: it lacks {missing};"):
        semdrivers.autofocus(microscope)
    assert microscope.frames == 0


def test_a_wrapper_that_delegates_its_members_is_a_microscope(foreign, offer_method):
    class Delegate:
        def __init__(self, inner):
            object.__setattr__(self, "inner", inner)

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __setattr__(self, name, value):
            setattr(self.inner, name, value)

    offer_method(moved("refused"))
    assert semdrivers.autofocus(Delegate(foreign), method="test-method").status == "refused"
    assert foreign.working_distance == 12.0


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"method": 3}, semdrivers.InvalidParameterError, "method must be a name"),
        ({"max_frames": 0}, semdrivers.OutOfRangeError, "max_frames must be at least 1"),
        ({"max_frames": 2.5}, semdrivers.InvalidParameterError, "whole number"),
        ({"max_frames": True}, semdrivers.InvalidParameterError, "whole number"),
        ({"max_travel": -1}, semdrivers.OutOfRangeError, "max_travel must be above 0 mm"),
        ({"max_travel": math.nan}, semdrivers.OutOfRangeError, "max_travel must be finite"),
        ({"max_travel": "1"}, semdrivers.InvalidParameterError, "max_travel must be a number in mm"),
        ({"bounds": 12}, semdrivers.InvalidParameterError, "bounds must be two numbers"),
        ({"bounds": (12, 11)}, semdrivers.OutOfRangeError, "low < high"),
        ({"bounds": ("a", "b")}, semdrivers.InvalidParameterError, r"bounds\[0\] must be a number"),
        ({"scan_mode": "fast"}, semdrivers.InvalidParameterError, "scan_mode must be a semdrivers.ScanMode"),
        ({"accept_score": 10}, semdrivers.OutOfRangeError, "accept_score must be within 0 to 9"),
        ({"may_change_magnification": 1}, semdrivers.InvalidParameterError, "must be True or False"),
        ({"restore_on_failure": None}, semdrivers.InvalidParameterError, "must be True or False"),
        ({"maxframes": 3}, semdrivers.InvalidParameterError, "autofocus has no setting 'maxframes'; it has"),
        ({"settings": {"method": "paper"}}, semdrivers.InvalidParameterError, "must be an AutofocusSettings"),
        ({"progress": 3}, semdrivers.InvalidParameterError, "progress cannot be 3"),
        ({"cancel": True}, semdrivers.InvalidParameterError, "cancel cannot be True"),
    ],
)
def test_settings_that_make_no_sense_raise_before_any_io(foreign, overrides, error, words):
    with pytest.raises(error, match=words):
        semdrivers.autofocus(foreign, **overrides)
    assert foreign.moves == []
    assert foreign.frames == 0


def test_an_unknown_method_lists_the_known_and_the_closest(foreign, offer_method):
    offer_method(moved("focused"))
    with pytest.raises(
        semdrivers.InvalidParameterError, match=r"'test-metod' \(did you mean 'test-method'\?\)"
    ) as error:
        semdrivers.autofocus(foreign, method="test-metod")
    assert "known: " in str(error.value)
    assert foreign.frames == 0


def test_overrides_stand_above_settings(foreign, offer_method):
    seen = []

    def focus(microscope, settings, progress, cancel):
        seen.append(settings)
        return {}

    offer_method(focus)
    settings = AutofocusSettings(method="test-method", max_frames=5, bounds=[11, 13])
    semdrivers.autofocus(foreign, settings=settings, max_frames=7)
    assert (seen[0].max_frames, seen[0].bounds) == (7, (11.0, 13.0))
    assert settings.max_frames == 5


@pytest.mark.parametrize(
    ("limits", "bounds"),
    [
        ({}, None),
        ({"max_travel": 0.5}, (11.5, 12.5)),
        ({"max_travel": 0.5, "bounds": (11.75, 20.0)}, (11.75, 12.5)),
        ({"max_travel": 0.5, "bounds": (5.0, 12.25)}, (11.5, 12.25)),
    ],
)
def test_a_method_gets_the_travel_as_bounds_on_both_sides_of_the_start(foreign, offer_method, limits, bounds):
    seen = []

    def focus(microscope, settings, progress, cancel):
        seen.append(settings.bounds)
        return {}

    offer_method(focus)
    semdrivers.autofocus(foreign, method="test-method", **limits)
    assert seen == [bounds]


def test_runs_around_a_place_get_the_frames_and_the_seconds_that_are_left(foreign, offer_method):
    class Staged(type(foreign)):
        stage_position = (0.0, 0.0)

        def move_stage(self, x, y):
            self.stage_position = (x, y)
            return self.stage_position

    seen = []

    def focus(microscope, settings, progress, cancel):
        seen.append((settings.max_frames, settings.max_seconds, microscope.stage_position))
        return {"status": "refused", "frames": 2, "elapsed": 3.0}

    offer_method(focus)
    limits = {"max_frames": 9, "max_seconds": 8.5}
    result = semdrivers.autofocus(Staged(), method="test-method", move_to_contrast=True, contrast_radius=0.1, **limits)
    assert seen == [(9, 8.5, (0.0, 0.0)), (7, 5.5, (0.05, 0.0)), (5, 2.5, (0.0, 0.05))]
    assert (result.frames, result.elapsed) == (6, 9.0)


@pytest.mark.parametrize("answer", ["focused", True, ("focused", 12.0)])
def test_a_plugin_that_returns_something_else_broke_its_contract(foreign, offer_method, answer):
    offer_method(lambda *arguments: answer)
    with pytest.raises(semdrivers.AutofocusError, match="not an AutofocusResult"):
        semdrivers.autofocus(foreign, method="test-method")


def test_a_plugin_that_declines_its_own_method_is_named(foreign, offer_method):
    offer_method(lambda *arguments: None)
    with pytest.raises(semdrivers.AutofocusError, match="no plugin carried out the autofocus method 'test-method'"):
        semdrivers.autofocus(foreign, method="test-method")


def test_a_named_method_reaches_no_other_plugin(foreign, offer_method):
    """A plugin that crashes at every call does not spoil a method that is another's."""

    class Crashing:
        @semdrivers.hookimpl(tryfirst=True)
        def semdrivers_autofocus(self, microscope, settings, progress, cancel):
            raise ZeroDivisionError("always")

        @semdrivers.hookimpl(tryfirst=True)
        def semdrivers_autofocus_methods(self):
            raise ZeroDivisionError("always")

    manager = semdrivers.get_plugin_manager()
    crashing = Crashing()
    manager.register(crashing, "crashing")
    try:
        offer_method(moved("focused"))
        assert semdrivers.autofocus(foreign, method="test-method").focused
    finally:
        manager.unregister(crashing)


@pytest.mark.parametrize("status", ["focused", "refused"])
def test_the_outcome_travels_with_the_frames_that_follow(foreign_type, offer_method, status):
    """Also a refusal: a picture must not carry the success of an earlier run."""

    class Recording(foreign_type):
        focus_record = None

    offer_method(moved(status))
    microscope = Recording()
    semdrivers.autofocus(microscope, method="test-method")
    assert microscope.focus_record["status"] == status
    assert "trace" not in microscope.focus_record
    json.dumps(microscope.focus_record)


def test_a_result_reads_well_and_saves_as_json(foreign, offer_method, tmp_path):
    offer_method(moved("focused"))
    result = semdrivers.autofocus(foreign, method="test-method")
    assert repr(result).startswith("<AutofocusResult focused: working distance 13.250 mm")
    saved = json.loads(result.save(tmp_path / "result.json").read_text(encoding="utf-8"))
    assert saved["status"] == "focused"
    assert saved["trace"][0]["phase"] == "search"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stigmate": True}, "needs a microscope whose stigmator can be set"),
        ({"move_to_contrast": True}, "move_to_contrast needs a stage, and ForeignMicroscope has none"),
        ({"focus_offset": (0.1, 0.0)}, "focus_offset needs a stage, and ForeignMicroscope has none"),
        ({"correct_drift": True}, "correct_drift needs a beam shift or a stage, and ForeignMicroscope has neither"),
        ({"focus_offset": 0.1}, r"focus_offset must be \(dx, dy\), not 0.1"),
        ({"region": (0, 0, 1)}, r"region must be \(x0, y0, x1, y1\)"),
        ({"region": (0.5, 0, 0.5, 1)}, "region must hold 0 <= x0 < x1 <= 1"),
        ({"region": (0, 0.5, 1, 1.1)}, "region must hold 0 <= x0 < x1 <= 1"),
        ({"contrast_radius": 0}, "contrast_radius must be above 0 mm, not 0 mm"),
        ({"bar_rows": "many"}, "bar_rows must be a whole number of rows"),
        ({"max_stigmator_travel": 1.0}, "limits of the stigmator need stigmate=True"),
        ({"stigmator_bounds": (0.0, 1.0)}, "limits of the stigmator need stigmate=True"),
        ({"stigmate": True, "max_stigmator_travel": 0.0}, "max_stigmator_travel must be above 0, not 0"),
    ],
)
def test_what_the_instrument_or_the_settings_lack_is_named_before_anything_moves(
    foreign, offer_method, settings, words
):
    offer_method(moved("focused"))
    with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError), match=words):
        semdrivers.autofocus(foreign, method="test-method", **settings)
    assert (foreign.moves, foreign.frames, foreign.magnification) == ([], 0, 2000.0)


class Shifting:
    """Adds a stage, a beam shift and a stigmator, each of which notes where it was sent."""

    def __init__(self):
        super().__init__()
        self.sent = []
        for name, value in {"_stage": (1.0, 2.0), "_shift": (0.0, 0.0), "_stigmator": (0.5, 0.5)}.items():
            setattr(self, name, value)

    @property
    def stage_position(self):
        x, y = self._stage
        return x, y

    def move_stage(self, x, y):
        self.sent.append(("stage", (x, y)))
        self._stage = (x, y)
        return self._stage

    @property
    def stigmator(self):
        return self._stigmator

    @stigmator.setter
    def stigmator(self, value):
        self.sent.append(("stigmator", tuple(value)))
        self._stigmator = tuple(value)

    @property
    def beam_shift(self):
        return self._shift

    @beam_shift.setter
    def beam_shift(self, value):
        self.sent.append(("shift", tuple(value)))
        self._shift = tuple(value)


@pytest.mark.parametrize(
    "value", [(math.nan, 0.0), (0.0, math.inf), None, "ab", ("1", "2"), (None, None), (1.0,), 5.0, {}]
)
@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("_stage", {"focus_offset": (0.1, 0.0)}),
        ("_stage", {"move_to_contrast": True}),
        ("_shift", {"correct_drift": True}),
        ("_stigmator", {"stigmate": True}),
    ],
)
def test_a_start_of_a_part_that_is_no_pair_of_numbers_is_named_and_nothing_is_sent(
    foreign_type, offer_method, part, settings, value
):
    offer_method(moved("refused"))
    microscope = type("Shifts", (Shifting, foreign_type), {"stage_position": property(lambda self: self._stage)})()
    setattr(microscope, part, value)
    with pytest.raises(semdrivers.DeviceError, match="the instrument reads back no usable"):
        semdrivers.autofocus(microscope, method="test-method", **settings)
    assert (microscope.sent, microscope.moves) == ([], [])


@pytest.mark.parametrize(("status", "stays"), [("focused", True), ("refused", False), ("cancelled", False)])
def test_a_corrected_stigmator_stays_with_a_focus_alone(foreign_type, offer_method, status, stays):
    microscope = type("Both", (Shifting, foreign_type), {})()

    def focus(microscope, settings, progress, cancel):
        microscope.stigmator = (0.7, 0.2)
        return {"status": status, "trace": (STEP,)}

    offer_method(focus)
    result = semdrivers.autofocus(microscope, method="test-method", stigmate=True)
    assert microscope.stigmator == ((0.7, 0.2) if stays else (0.5, 0.5))
    assert (result.stigmator, result.start_stigmator) == (microscope.stigmator, (0.5, 0.5))


@pytest.mark.parametrize(("corrected", "shift"), [((300.0, -500.0), (0.3, -0.5)), (None, (0.0, 0.0))])
def test_a_beam_shift_stays_where_it_follows_a_drift_and_is_back_otherwise(
    foreign_type, offer_method, corrected, shift
):
    microscope = type("Both", (Shifting, foreign_type), {})()

    def focus(microscope, settings, progress, cancel):
        microscope.beam_shift = (0.3, -0.5)
        return {"drift": Drift(1.0, -2.0, 0.1, 60.0, corrected=corrected)}

    offer_method(focus)
    semdrivers.autofocus(microscope, method="test-method", correct_drift=True)
    assert (microscope.beam_shift, microscope.stage_position) == (shift, (1.0, 2.0))
    assert [name for name, _ in microscope.sent if name != "shift"] == []


def test_steps_of_runs_around_a_place_are_numbered_through(foreign_type, offer_method):
    microscope = type("Both", (Shifting, foreign_type), {})()

    def focus(microscope, settings, progress, cancel):
        steps = tuple(FocusStep(index, "search", 12.0, 2000.0, 8.5, 0.1, 5.0) for index in range(2))
        for step in steps:
            progress(step)
        status = "focused" if len(microscope.sent) == 2 else "refused"
        return {"status": status, "frames": 2, "trace": steps}

    offer_method(focus)
    shown = []
    result = semdrivers.autofocus(microscope, method="test-method", move_to_contrast=True, progress=shown.append)
    assert [step.index for step in shown] == [0, 1, 2, 3, 4, 5] == [step.index for step in result.trace]
    assert result.measured_at == pytest.approx((1.0, 2.05))
    assert microscope.stage_position == (1.0, 2.0)
    assert result.reason == "the test says so; at the target: the test says so"


def test_a_focus_at_the_target_was_measured_nowhere_else(foreign_type, offer_method):
    microscope = type("Both", (Shifting, foreign_type), {})()
    offer_method(lambda microscope, settings, progress, cancel: {})
    result = semdrivers.autofocus(microscope, method="test-method", move_to_contrast=True)
    assert (result.measured_at, microscope.sent) == (None, [])


def test_a_cancel_ends_the_search_around_a_place(foreign_type, offer_method):
    microscope, cancel = type("Both", (Shifting, foreign_type), {})(), threading.Event()

    def focus(microscope, settings, progress, cancel):
        cancel.set()
        return {"status": "refused"}

    offer_method(focus)
    result = semdrivers.autofocus(microscope, method="test-method", move_to_contrast=True, cancel=cancel)
    assert (result.status, microscope.sent) == ("refused", [])


def test_a_stage_that_cannot_go_there_looks_elsewhere(foreign_type, offer_method):
    class Narrow(Shifting, foreign_type):
        def move_stage(self, x, y):
            if x > 1.0:
                raise semdrivers.OutOfRangeError("x is outside")
            return super().move_stage(x, y)

    microscope, places = Narrow(), []

    def focus(microscope, settings, progress, cancel):
        places.append(microscope.stage_position)
        return {"status": "refused"}

    offer_method(focus)
    semdrivers.autofocus(microscope, method="test-method", move_to_contrast=True)
    assert len(places) == 1 + 8 - 3
    assert max(x for x, _ in places) <= 1.0


def test_a_lens_that_cannot_be_put_back_after_a_refusal_is_the_error(foreign_type, offer_method):
    class Stuck(foreign_type):
        @property
        def working_distance(self):
            return self._working_distance

        @working_distance.setter
        def working_distance(self, value):
            if self.moves:
                raise semdrivers.HardwareFault("the lens does not answer")
            self.moves.append(value)
            self._working_distance = value

    offer_method(moved("refused"))
    with pytest.raises(semdrivers.HardwareFault, match="the lens does not answer"):
        semdrivers.autofocus(Stuck(), method="test-method")
