"""Data bars: detected where they are, and nowhere else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

import semdrivers
from semdrivers.data_bar import (
    bar_rows_of,
    bar_rows_text,
    both_bars,
    checked_bar_rows,
    detect_bar_rows,
    without_bar,
)
from semdrivers.emulator import Emulator
from semdrivers.errors import InvalidParameterError, OutOfRangeError

STYLES = {"black": (0, 255), "grey": (70, 255), "white": (255, 0), "dim": (0, 190)}


def bar(height: int, width: int, style: str = "black", line: bool = False, text: str = "15.0kV WD9.7mm x2,000 10um"):
    background, ink = STYLES[style]
    picture = Pillow.new("L", (width, height), background)
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), text, fill=ink, font=ImageFont.load_default(max(8, height // 2)))
    draw.rectangle((width * 3 // 4, height // 2, width - 8, height // 2 + 3), fill=ink)
    if line:
        draw.line((0, 0, width, 0), fill=ink)
    return np.asarray(picture)


def sample(height: int = 240, width: int = 320, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    scene = 110 + 50 * np.sin(rows / 9) * np.cos(columns / 13)
    return np.clip(scene + random.normal(0, 12, scene.shape), 0, 255).astype(np.uint8)


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Pillow.open(file))


def ramp(shape: tuple[int, int], across: float, down: float) -> np.ndarray:
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return across * columns + down * rows


TRACES = {
    "as it was drawn": lambda pixels: pixels,
    "JPEG of quality 90": lambda pixels: compressed(pixels, 90),
    "JPEG of quality 75": lambda pixels: compressed(pixels, 75),
    "JPEG of quality 50": lambda pixels: compressed(pixels, 50),
    "ramp along the lines": lambda pixels: np.clip(pixels * 0.8 + 25 + ramp(pixels.shape, 25, 0), 0, 255).astype(
        np.uint8
    ),
    "ramp down the picture": lambda pixels: np.clip(pixels * 0.8 + 25 + ramp(pixels.shape, 5, 25), 0, 255).astype(
        np.uint8
    ),
    "shading": lambda pixels: (pixels * (0.8 + ramp(pixels.shape, 0.1, 0.1))).astype(np.uint8),
    "noise of a frame grabber": lambda pixels: np.clip(
        pixels + np.random.default_rng(2).normal(0, 1.5, pixels.shape), 0, 255
    ).astype(np.uint8),
    "ramp and JPEG": lambda pixels: compressed(
        np.clip(pixels * 0.8 + 25 + ramp(pixels.shape, -20, 3), 0, 255).astype(np.uint8), 75
    ),
}


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("style", STYLES)
def test_a_bar_is_detected_after_compression_on_a_ramp_and_at_the_top(style, trace):
    for height, width, rows in ((240, 320, 22), (480, 640, 40)):
        picture, drawn = sample(height, width), bar(rows, width, style)
        at_the_top = detect_bar_rows(TRACES[trace](np.vstack([drawn, picture])))
        at_the_bottom = detect_bar_rows(TRACES[trace](np.vstack([picture, drawn])))
        assert (at_the_top, at_the_bottom) == (pytest.approx(-rows, abs=4), pytest.approx(rows, abs=4)), (width, trace)


def substrate(seed: int, noise: float, edge: int = 0, particles: int = 25, level: int = 12) -> np.ndarray:
    """Return a picture whose lower part is a flat dark ground with bright particles, as a cleaved wafer shows."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:240, :320]
    scene = np.where(rows < 190 + edge * np.sin(columns / 40), sample(seed=seed), float(level))
    for _ in range(particles):
        y, x, radius = random.integers(196, 240), random.integers(0, 320), random.uniform(1.5, 6)
        scene[np.hypot(rows - y, columns - x) < radius] = 200
    return np.clip(scene + random.normal(0, noise, scene.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 1, 3, 8])
@pytest.mark.parametrize("level", [0, 60])
def test_a_flat_ground_with_particles_is_no_bar(noise, level):
    for seed, particles in enumerate((5, 60)):
        picture = substrate(seed, noise, 3 * (seed % 2), particles, level)
        for view in (picture, picture[::-1], compressed(picture, 75)):
            assert detect_bar_rows(view) == 0, seed


@pytest.mark.parametrize("line", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("height", "width", "rows"), [(240, 320, 18), (480, 640, 40), (960, 1280, 64)])
def test_a_bar_is_found_to_the_row(style, line, height, width, rows):
    picture, drawn = sample(height, width), bar(rows, width, style, line)
    over = picture.copy()
    over[-rows:] = drawn
    assert detect_bar_rows(over) == rows
    assert detect_bar_rows(np.vstack([picture, drawn])) == rows
    assert detect_bar_rows(np.vstack([picture, drawn]).astype(np.uint16) * 257) == rows
    assert detect_bar_rows(picture) == 0


def test_a_horizontal_edge_is_no_bar():
    for seed in range(4):
        random = np.random.default_rng(seed)
        for dark, bright in ((0, 255), (0, 140), (60, 200)):
            scene = np.full((240, 320), bright, float)
            scene[200:] = dark
            scene[:, 100:110] = bright
            for noise in (0, 3, 15):
                picture = np.clip(scene + random.normal(0, noise, scene.shape), 0, 255).astype(np.uint8)
                assert detect_bar_rows(picture) == 0, (dark, bright, noise)


@pytest.mark.parametrize("specimen", ["tin-balls", "tem-grid", "featureless"])
def test_no_emulated_frame_has_a_bar(specimen):
    with Emulator(specimen, magnification=3000, seed=4) as emulator, semdrivers.connect(emulator.url) as microscope:
        microscope.working_distance = emulator.truth.working_distance
        for brightness, contrast in ((0.5, 0.5), (0.05, 0.9), (0.9, 0.9)):
            microscope.brightness, microscope.contrast = brightness, contrast
            assert detect_bar_rows(microscope.acquire().pixels) == 0


@pytest.mark.slow
def test_no_row_of_a_real_micrograph_is_taken_for_a_bar_and_the_real_bars_are_found(data_folder):
    known = {
        "fibresem_sample01_img08": 166,
        "fibresem_sample02_img20": 166,
        "odemis_jeol_temgrid": 64,  # text and a rule, without a background
        "odemis_tescan_hole16bit": 120,
        "odemis_tfs_icegrid": 68,
        "odemis_zeiss_temgrid": 60,
    }
    paths = sorted((data_folder / "micrographs").glob("*.*"))
    assert len(paths) == 27
    for path in paths:
        pixels = semdrivers.read_pixels(path)
        rows = detect_bar_rows(pixels)
        assert rows == known.get(path.stem, 0), path.name
        clean = without_bar(pixels, rows)
        grey = clean if clean.dtype == np.uint8 else (clean // 256).astype(np.uint8)
        for view in (clean.T, clean[: len(clean) // 2], clean[::2, ::2], compressed(grey[::2, ::2], 75)):
            assert detect_bar_rows(view) == 0, path.name


@pytest.mark.slow
def test_no_plane_of_a_recorded_series_has_a_bar(data_folder):
    paths = sorted((data_folder / "series").rglob("*.png"))
    assert len(paths) >= 3
    for path in paths:
        pixels = semdrivers.read_pixels(path)
        assert detect_bar_rows(pixels) == 0, path
        assert detect_bar_rows(compressed(pixels[:480, :640], 60)) == 0, path


def test_the_user_comes_before_the_file_and_the_file_before_the_detection():
    picture = np.vstack([sample(), bar(20, 320)])
    assert bar_rows_of(picture, {}) == 20
    assert bar_rows_of(picture, {"bar_rows": 0}) == 0
    assert bar_rows_of(picture, {"bar_rows": 12}, 5) == 5
    assert len(without_bar(picture, 20)) == 240
    top = np.vstack([bar(20, 320), sample()])
    assert bar_rows_of(top, {}) == bar_rows_of(picture, {"bar_rows": -20}) == -20
    assert np.array_equal(without_bar(top, -20), sample())
    for rows in (260, -260):
        with pytest.raises(OutOfRangeError, match=rf"x\.tif: bar_rows must be within 0 and 259 .* not {rows}"):
            without_bar(picture, rows, "x.tif")


@pytest.mark.parametrize("upper", STYLES)
@pytest.mark.parametrize("lower", STYLES)
def test_bars_that_stand_on_each_other_are_cut_together(upper, lower):
    if upper != lower:
        drawn = np.vstack([bar(24, 640, upper, text="SEM HV 15.0kV Det SE"), bar(40, 640, lower)])
        for picture in (np.vstack([sample(480, 640), drawn]), np.vstack([drawn, sample(480, 640)])):
            for view in (picture, compressed(picture, 80)):
                assert abs(detect_bar_rows(view)) == pytest.approx(64, abs=4)


def written(pixels: np.ndarray, ink: int, size: int, text: str = "15.0kV WD9.7mm x2,000 10um", rule: bool = True):
    """Return a picture with text drawn over it near the bottom, and the rows from the text's first to the last."""
    picture = Pillow.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    height, width = pixels.shape
    below = height - size - 10
    draw.text((8, below), text, fill=ink, font=ImageFont.load_default(size))
    if rule:
        draw.rectangle((width * 3 // 4, below + size // 2, width - 12, below + size // 2 + 2), fill=ink)
    changed = np.flatnonzero((np.asarray(picture) != pixels).any(axis=1))
    return np.asarray(picture), height - int(changed[0])


@pytest.mark.parametrize("ink", [255, 0, 235])
@pytest.mark.parametrize(("height", "width", "size"), [(240, 320, 13), (480, 640, 20), (960, 1280, 36)])
def test_text_without_a_background_is_cut_as_a_bar_is(height, width, size, ink):
    for seed in (1, 2):
        picture, rows = written(sample(height, width, seed), ink, size)
        assert detect_bar_rows(picture) == pytest.approx(rows, abs=2)
        assert detect_bar_rows(picture[::-1]) == pytest.approx(-rows, abs=2)
        assert detect_bar_rows(picture.astype(np.uint16) * 257) == pytest.approx(rows, abs=2)
        blurred = np.asarray(Pillow.fromarray(sample(height, width, seed)).resize((width // 8, height // 8)))
        blurred = np.asarray(Pillow.fromarray(blurred).resize((width, height), Pillow.Resampling.BICUBIC))
        picture, rows = written(blurred, ink, size, rule=False)
        assert detect_bar_rows(picture) == pytest.approx(rows, abs=2)


def test_text_is_seen_through_compression():
    picture, rows = written(sample(960, 1280), 255, 36)
    for quality in (90, 75):
        assert detect_bar_rows(compressed(picture, quality)) == pytest.approx(rows, abs=4)


@pytest.mark.parametrize("noise", [2, 12, 40])
def test_specks_and_rows_of_dots_are_no_text(noise):
    random = np.random.default_rng(noise)
    rows, columns = np.mgrid[:240, :320]
    beads = np.full((240, 320), 90.0)
    for y in range(4, 240, 14):
        for x in range(8, 320, 16):
            beads[np.hypot(rows - y, columns - x) < 4] = 255
    specks = np.full((240, 320), 90.0)
    specks[random.random(specks.shape) < 0.02] = 255
    for scene in (beads, specks):
        picture = np.clip(scene + random.normal(0, noise, scene.shape), 0, 255).astype(np.uint8)
        assert detect_bar_rows(picture) == detect_bar_rows(picture[::-1]) == 0


@pytest.mark.parametrize("lower", ["bar", "text"])
@pytest.mark.parametrize("upper", ["bar", "text"])
def test_both_ends_of_a_picture_are_cut(upper, lower):
    def ended(picture, kind):
        if kind == "text":
            return written(picture, 255, 20)
        return np.vstack([picture, bar(40, 640, "grey")]), 40

    picture, bottom = ended(sample(480, 640), lower)
    picture, top = ended(picture[::-1], upper)
    detected = detect_bar_rows(picture[::-1])
    assert detected == (pytest.approx(top, abs=2), pytest.approx(bottom, abs=2))
    left = without_bar(picture[::-1], bar_rows_of(picture[::-1], {}))
    assert len(left) == pytest.approx(len(picture) - top - bottom, abs=4)
    assert detect_bar_rows(left) == 0


def test_rows_at_both_ends_are_given_as_numbers_text_and_metadata():
    picture = np.vstack([bar(20, 320), sample(), bar(24, 320, "white")])
    for rows in ((20, 24), checked_bar_rows("bar_rows", "20+24"), checked_bar_rows("bar_rows", [20, 24])):
        assert np.array_equal(without_bar(picture, rows), sample())
    assert bar_rows_of(picture, {"bar_rows": [20, 0]}) == (20, 0)
    assert bar_rows_of(picture, {"bar_rows": "none"}) == bar_rows_of(picture, {"bar_rows": [200, 200]}) == (20, 24)
    for rows in (0, -20, 24, (20, 24)):
        assert checked_bar_rows("bar_rows", bar_rows_text(rows)) == rows
    assert [both_bars(-20, 24), both_bars((3, 24), -20), both_bars(5, 24), both_bars(0, -3)] == [(20, 24)] * 2 + [
        24,
        -3,
    ]
    for wrong in ("20+", "+3", "a", "1+2+3", "", 1.5, True, (1, -2), (1, 2, 3), [1.0, 2], None):
        with pytest.raises(InvalidParameterError, match="rows at top and bottom such as 20"):
            checked_bar_rows("bar_rows", wrong)
    with pytest.raises(OutOfRangeError, match=r"not 200\+84"):
        without_bar(picture, (200, 84))


def test_a_bar_is_found_in_a_narrow_picture_and_none_in_a_picture_of_few_rows():
    narrow = np.concatenate([sample(240, 100), bar(30, 100, text="15kV 10um")])
    assert detect_bar_rows(narrow) == 30
    assert detect_bar_rows(sample(12, 320)) == 0
