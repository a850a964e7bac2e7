"""Instruments whose frames are late, frozen or of another kind than asked for, and lenses that do not move."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import j1

import semdrivers
from semdrivers import Capabilities, Image, Range, ScanMode
from semdrivers.focus import Astigmatism
from semfocus_plugin.run import FrameChecks, FrameMismatchError, Method, Outcome, run

BACKLASH = 0.05
"""Way in mm that a worn lens drive is behind, under the lie ``backlash``."""
METHODS = ("defocus-pair", "dual-network", "paper")
MIXTURES = ("averaged", "columns", "interlaced", "two exposures", "unsettled", "stamped anew")
"""Lies of an instrument whose frames hold more than one place."""


class Column:
    """A textured sample under a disc, with noise; `lie` alters what its owner sees of it."""

    def __init__(self, lie: str = "", seed: int = 0, start: float = 15.9, stuck: float = 15.05) -> None:
        self.random = np.random.default_rng(seed)
        self.capabilities = Capabilities(Range(2.0, 40.0, 0.0005), Range(50.0, 50_000.0))
        noise = self.random.normal(size=(240, 320))
        self.scene = sum(np.kron(noise[: 240 // n, : 320 // n], np.ones((n, n))) for n in (1, 4, 16))
        self.stuck = stuck
        self.lie, self.best, self.place, self.magnification, self.count = lie, 15.0, start, 1000.0, 0
        self.kept: list[Image] = []
        self.followed = start
        self.places: list[float] = []
        self.pattern = np.random.default_rng(7).normal(0, 12, (240, 320))

    @property
    def working_distance(self) -> float:
        return self.place

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self.place = value
        self.followed = min(max(self.followed, value - BACKLASH / 2), value + BACKLASH / 2)

    def frame(self, place: float) -> Image:
        pixel = 0.4 / self.magnification
        radius = 0.003 * abs(place - self.best) / pixel
        k = 2 * np.pi * np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320))
        transfer = np.exp(-((k * max(radius, 0.4)) ** 2) / 8)
        if self.lie == "hollow beam":
            x = k * radius + 1e-9
            transfer = (2 * j1(x) - j1(x / 2)) / (0.75 * x) * np.exp(-((0.4 * k) ** 2) / 8)
        signal = np.fft.irfft2(np.fft.rfft2(self.scene) * transfer, (240, 320))
        noise = self.random.normal(0, 6, (240, 320)) if self.lie != "no noise" else 0.0
        levels = np.clip(128 + 25 * signal + noise, 1, 254)
        pixels = (256 * levels).astype(np.uint16) if self.lie == "no noise" else levels.astype(np.uint8)
        self.count += 1
        return Image(pixels, place, self.magnification, pixel * 1e6, self.count, float(self.count), ScanMode.FAST)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        places = {"stands still": self.stuck, "backlash": self.followed}
        if self.kept:
            places["sharp everywhere"] = self.best
        places["in turn"] = self.best + 0.9 * (len(self.kept) % 2 == 0)
        image = dataclasses.replace(self.frame(places.get(self.lie, self.place)), working_distance=self.place)
        self.kept.append(image)
        early = self.kept[-2] if len(self.kept) > 1 else image
        if self.lie == "one frame late" or (self.lie == "late twice" and len(self.kept) in (2, 3)):
            return early
        if self.lie == "frozen":
            return dataclasses.replace(image, pixels=self.kept[0].pixels)
        if self.lie == "grows":
            return dataclasses.replace(image, pixels=np.tile(image.pixels, (len(self.kept),) * 2))
        if self.lie in MIXTURES:
            return dataclasses.replace(image, pixels=self.mixed(image.pixels, early.pixels))
        if self.lie == "pattern":
            pixels = np.clip(image.pixels + self.pattern, 0, 255)
            return dataclasses.replace(image, pixels=pixels.astype(np.uint8))
        if self.lie == "torn":
            return dataclasses.replace(image, pixels=np.vstack([image.pixels[:120], early.pixels[120:]]))
        if self.lie == "other magnification":
            return dataclasses.replace(image, magnification=4000.0)
        if self.lie == "same number":
            return dataclasses.replace(image, frame_id=1)
        if self.lie == "back in time":
            return dataclasses.replace(image, timestamp=-float(self.count))
        if self.lie == "slow mode":
            return dataclasses.replace(image, scan_mode=ScanMode.SLOW)
        return image

    def mixed(self, pixels: np.ndarray, early: np.ndarray) -> np.ndarray:
        before = self.places[-1] if self.places else self.place
        self.places.append(self.place)
        if self.lie == "averaged":
            return np.mean([image.pixels for image in self.kept[-4:]], axis=0).astype(np.uint8)
        if self.lie == "stamped anew":
            return early
        pixels = pixels.copy()
        if self.lie == "columns":
            pixels[:, 160:] = early[:, 160:]
        if self.lie == "interlaced":
            pixels[::2] = early[::2]
        if self.lie == "two exposures":
            pixels[::2] = self.frame(before).pixels[::2]
        if self.lie == "unsettled":
            for top in range(0, 240, 30):
                place = self.place + (before - self.place) * np.exp(-top / 75)
                pixels[top : top + 30] = self.frame(place).pixels[top : top + 30]
        return pixels

    def close(self) -> None: ...


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lie", ["frozen", "other magnification", "same number", "back in time", "slow mode"])
def test_frames_that_are_not_those_asked_for_end_in_a_named_error(lie, method):
    microscope = Column(lie)
    with pytest.raises(FrameMismatchError, match="not the one asked for"):
        semdrivers.autofocus(microscope, method=method)
    assert microscope.working_distance == 15.9
    assert microscope.count <= 6


@pytest.mark.parametrize("seed", range(3))
def test_a_buffer_that_is_one_frame_late_gives_no_false_focus(seed):
    microscope = Column("one frame late", seed, start=15.0 + (-1) ** seed * (0.3 + 0.3 * seed))
    microscope.kept.append(microscope.frame(20.0))
    result = semdrivers.autofocus(microscope)
    assert not result.focused or abs(microscope.working_distance - 15.0) < 0.13, result
    assert "late frame(s) taken again" in result.reason


def test_a_frame_that_was_late_is_dropped_and_taken_again():
    microscope = Column("late twice")
    result = semdrivers.autofocus(microscope)
    assert result.focused, result
    assert abs(microscope.working_distance - 15.0) < 0.2
    late = [step for step in result.trace if step.phase == "late"]
    assert 1 <= len(late) <= 2
    assert "late frame(s) taken again" in result.reason
    assert result.frames == microscope.count


@pytest.mark.parametrize(
    ("method", "stuck", "frames"),
    [("defocus-pair", place, 4) for place in (17.0, 16.0, 15.2, 15.05)] + [("dual-network", 15.05, 6)],
)
def test_a_lens_that_reports_to_move_and_stands_still_is_named_early(method, stuck, frames):
    microscope = Column("stands still", stuck=stuck)
    result = semdrivers.autofocus(microscope, method=method)
    assert result.status == "refused"
    assert "does not follow its control" in result.reason
    assert result.frames <= frames


class RoundPicture(Column):
    """Its pictures are round, on black; `soft` is the blur radius in pixels of the sample itself."""

    def __init__(self, start: float, radius: float = 115.0, soft: float = 0.0) -> None:
        super().__init__(start=start)
        y, x = np.mgrid[:240, :320]
        self.outside = np.hypot(x - 160, y - 120) > radius
        self.scene = gaussian_filter(self.scene, soft, mode="wrap") if soft else self.scene

    def frame(self, place: float) -> Image:
        image = super().frame(place)
        return dataclasses.replace(image, pixels=np.where(self.outside, 0, image.pixels).astype(np.uint8))


def ending(outcome, *places):
    """A method that takes frames at places and ends with an outcome."""

    def focus(run, accept):
        for place in places:
            run.measure(place, "search")
        return outcome

    return Method("ending", "ends as the test says", bind=lambda networks: focus, max_frames=8)


@pytest.mark.parametrize("claimed", [15.0, 15.9])
def test_a_focus_on_the_edge_of_a_round_picture_is_refused(claimed):
    """No defocus blurs that edge, so every frame seems sharp to a network; the sample shows most at 15 mm."""
    method = ending(Outcome(True, "claimed", claimed, 8.0, 1.0), 14.1, 15.0, 15.9, 16.8)
    result = run(method, RoundPicture(15.9), semdrivers.AutofocusSettings())
    assert ("beside what is drawn into every frame" in result.reason) == (claimed != 15.0), result
    assert claimed == 15.0 or (result.status == "refused" and "at 15.000 mm shows more" in result.reason)


@pytest.mark.parametrize("radius", [115.0, 999.0])
def test_a_refusal_names_what_is_drawn_into_every_frame(radius):
    method = ending(Outcome(False, "claimed", 15.0, 1.0), 14.1, 16.8)
    result = run(method, RoundPicture(15.9, radius), semdrivers.AutofocusSettings())
    named = "; 46% of every frame is black or white at the same pixels, drawn into it: choose the sample by region"
    assert result.reason == "claimed" + (named if radius < 999 else "")


def test_a_line_focus_that_shows_more_is_no_sign_of_what_is_drawn():
    """On a sample of one direction it lies as far from the focus as the astigmatism is."""
    outcome = Outcome(True, "claimed", 15.9, 8.0, 1.0, astigmatism=Astigmatism(800.0, 0.0, 10.0))
    result = run(ending(outcome, 15.9, 15.0), RoundPicture(15.9), semdrivers.AutofocusSettings())
    assert "beside what is drawn" not in result.reason


def test_what_is_drawn_into_frames_is_not_blamed_on_the_lens_alone():
    result = semdrivers.autofocus(RoundPicture(15 - 8 * 0.1333))
    assert result.status == "refused"
    assert "drawn into them" in result.reason


def test_a_soft_sample_within_narrow_limits_is_not_said_to_lie_beyond_them():
    result = semdrivers.autofocus(RoundPicture(15.05, radius=999.0, soft=8.0), max_travel=0.15)
    assert result.status == "refused"
    assert "where the sample itself is not sharp" in result.reason


@pytest.mark.parametrize("method", METHODS)
def test_frames_that_grow_are_named(method):
    microscope = Column("grows")
    with pytest.raises(FrameMismatchError, match="it has 1280×960 pixels, and the first 320×240"):
        semdrivers.autofocus(microscope, method=method)
    assert microscope.working_distance == 15.9


@pytest.mark.parametrize("method", METHODS)
def test_a_frame_of_which_a_part_is_old_is_taken_again(method):
    result = semdrivers.autofocus(Column("torn"), method=method)
    assert "late frame(s) taken again" in result.reason
    assert not result.focused or method == "paper" or abs(result.working_distance - 15.0) < 0.27, result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lie", "method", "start", "seed"),
    [
        ("in turn", "dual-network", 15.4, 1),
        ("in turn", "paper", 15.4, 1),
        ("sharp everywhere", "defocus-pair", 14.468, 1),
        ("sharp everywhere", "dual-network", 14.468, 1),
        *(("sharp everywhere", "paper", start, seed) for start in (14.468, 15.4) for seed in (0, 1, 3)),
    ],
)
def test_sharpness_that_does_not_depend_on_the_lens_is_no_focus(lie, method, start, seed):
    microscope = Column(lie, seed, start)
    result = semdrivers.autofocus(microscope, method=method)
    assert result.status == "refused", result
    assert any(why in result.reason for why in ("contradict", "hardly depends", "no focus could be confirmed"))
    assert microscope.working_distance == start


@pytest.mark.parametrize(
    "away", [20, 30, *(pytest.param(away, marks=pytest.mark.slow) for away in (-35, -30, -15, 15, 25))]
)
def test_a_beam_that_misleads_the_network_far_from_the_focus_costs_no_focus(away):
    field = 0.4 / 1000 / 0.003
    microscope = Column("hollow beam", seed=1, start=15.0 + away * field)
    result = semdrivers.autofocus(microscope)
    assert result.focused, result
    assert abs(microscope.place - 15.0) < 2 * field


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [14.7, 15.2])
def test_backlash_of_the_lens_drive_costs_no_focus(method, start):
    microscope = Column("backlash", start=start)
    microscope.magnification = 5000.0
    result = semdrivers.autofocus(microscope, method=method)
    assert not result.focused or abs(microscope.followed - 15.0) < 0.055, result


@pytest.mark.parametrize("lie", MIXTURES)
@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 2, 4, 5, 6, 7))])
def test_frames_that_hold_more_than_one_place_give_no_false_focus(lie, seed):
    random = np.random.default_rng(100 + seed)
    microscope = Column(lie, seed)
    microscope.magnification = 4000.0 if seed % 2 else 1000.0
    field = 0.4 / microscope.magnification / 0.003
    microscope.place = 15.0 + random.choice([-1, 1]) * random.uniform(1, 16) * field
    result = semdrivers.autofocus(microscope)
    assert not result.focused or abs(microscope.place - 15.0) < 2 * field, result


@pytest.mark.parametrize(
    ("lie", "seed", "sign"),
    [
        ("averaged", 1, "shares 71% of its noise with the one before"),
        ("averaged", 3, "shares 71% of its noise with the one before"),  # the blur of these contradicts it, too
        ("unsettled", 1, "not equally sharp"),
    ],
)
def test_what_is_wrong_with_such_frames_is_named(lie, seed, sign):
    microscope = Column(lie, seed=seed, start=14.9)
    microscope.magnification = 4000.0
    result = semdrivers.autofocus(microscope)
    assert result.status == "refused"
    assert sign in result.reason
    assert "frames hold more than one place; switch off averaging from frame to frame" in result.reason


@pytest.mark.parametrize("start", [13.4, 14.2, 15.9])
def test_fine_detail_is_no_shared_noise_where_pictures_have_no_noise(start):
    """Simulators of makers return such pictures."""
    result = semdrivers.autofocus(microscope := Column("no noise", start=start))
    assert result.focused, result
    assert abs(microscope.working_distance - 15.0) < 0.2


def test_a_pattern_that_every_frame_has_costs_frames_and_no_focus():
    result = semdrivers.autofocus(microscope := Column("pattern"))
    assert result.focused, result
    assert abs(microscope.working_distance - 15.0) < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_column_is_focused(method):
    result = semdrivers.autofocus(Column(), method=method)
    assert "late" not in result.reason
    assert result.focused or method == "paper", result


@pytest.mark.parametrize("value", [float("nan"), None, "15 mm"])
def test_a_read_back_that_is_no_number_is_named_before_anything_moves(value):
    microscope = Column()
    microscope.place = value
    with pytest.raises(semdrivers.SemDriversError, match="working distance"):
        semdrivers.autofocus(microscope)
    assert microscope.count == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("working_distance", None),
        ("working_distance", "15 mm"),
        pytest.param("magnification", 10**400, id="too large"),
        ("pixel_size", None),
        ("frame_id", "seven"),
        ("timestamp", "2026-11-29"),
        ("scan_mode", "FAST"),
    ],
)
def test_a_condition_of_a_frame_that_cannot_be_compared_is_named_and_the_lens_put_back(name, value):
    class Written(Column):
        def acquire(self, mode=ScanMode.FAST):
            image = super().acquire(mode)
            return dataclasses.replace(image, **{name: value}) if self.count == 3 else image

    microscope = Written()
    with pytest.raises(semdrivers.AutofocusError, match=f"the frame's {name} must be"):
        semdrivers.autofocus(microscope)
    assert (microscope.working_distance, microscope.magnification) == (15.9, 1000.0)


def test_conditions_that_are_not_known_cannot_disagree():
    class Silent(Column):
        def acquire(self, mode=ScanMode.FAST):
            unknown = {"working_distance": np.float32("nan"), "magnification": np.nan, "pixel_size": np.nan}
            return dataclasses.replace(super().acquire(mode), **unknown, frame_id=None, timestamp=None, scan_mode=None)

    result = semdrivers.autofocus(Silent())
    assert result.focused, result
    assert "late" not in {step.phase for step in result.trace}


@pytest.mark.parametrize(
    ("before", "number", "old"),
    [(5, 6, False), (5, 5, True), (5, 4, True), (5, 3, True), (5, 0, True), pytest.param(255, 0, False, id="anew")],
)
def test_a_frame_whose_number_goes_back_is_old(before, number, old):
    random = np.random.default_rng(2)
    first, second = (
        Image(random.integers(0, 256, (240, 320), np.uint8), 10.0, 5000.0, 10.0, frame_id=each)
        for each in (before, number)
    )
    checks = FrameChecks(ScanMode.FAST)
    checks.accept(first, 10.0)
    assert bool(checks.late(second, 10.0, 5000.0, 0.01)) is old


class Beads(Column):
    """Bright beads on a background that is black since there is nothing: most pixels are at 0, and none is cut off."""

    def __init__(self, seed: int, start: float) -> None:
        super().__init__("", seed, start)
        beads = (self.random.random((240, 320)) < 0.002).astype(float)
        k = 2 * np.pi * np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320))
        blurred = np.fft.irfft2(np.fft.rfft2(beads) * np.exp(-((k * 2.0) ** 2) / 2), (240, 320)) * 25
        self.scene = np.clip(blurred, 0.0, 1.0)

    def frame(self, place: float) -> Image:
        image = super().frame(place)
        radius = 0.003 * abs(place - self.best) / (0.4 / self.magnification)
        k = 2 * np.pi * np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320))
        signal = np.fft.irfft2(np.fft.rfft2(self.scene) * np.exp(-((k * max(radius, 0.4)) ** 2) / 8), (240, 320))
        electrons = self.random.poisson(50 * np.clip(signal, 0, 1))
        return dataclasses.replace(image, pixels=np.clip(4 * electrons, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("start", [14.6, 15.5])
def test_bright_beads_on_black_are_focused(start):
    microscope = Beads(seed=1, start=start)
    assert np.mean(microscope.frame(15.0).pixels == 0) > 0.7
    result = semdrivers.autofocus(microscope)
    assert result.focused, result
    assert abs(microscope.working_distance - 15.0) < 0.2
