"""Data bars: detected where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

import semdrivers
from semdrivers.data_bar import bar_rows_of, detect_bar_rows, without_bar
from semdrivers.emulator import Emulator
from semdrivers.errors import OutOfRangeError

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


def test_no_row_of_a_real_micrograph_is_taken_for_a_bar_and_the_real_bars_are_found(data_folder):
    known = {
        "fibresem_sample01_img08": 166,
        "fibresem_sample02_img20": 166,
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
        for view in (clean[::-1], clean.T, clean[: len(clean) // 2], clean[::2, ::2]):
            assert detect_bar_rows(view) == 0, path.name


def test_the_user_comes_before_the_file_and_the_file_before_the_detection():
    picture = np.vstack([sample(), bar(20, 320)])
    assert bar_rows_of(picture, {}) == 20
    assert bar_rows_of(picture, {"bar_rows": 0}) == 0
    assert bar_rows_of(picture, {"bar_rows": 12}, 5) == 5
    assert len(without_bar(picture, 20)) == 240
    with pytest.raises(OutOfRangeError, match=r"x\.tif: bar_rows must be within 0 and 259, not 260"):
        without_bar(picture, 260, "x.tif")
