"""Tiles: the plan, what neighbours say of the focus, the mosaic, and a run that is killed at any moment."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.special import j1
from typer.testing import CliRunner

import semdrivers
from semdrivers import AutofocusSettings, FocusMap, Image, ScanMode
from semdrivers.tracking import FocusTracker
from semfocus_plugin import napari, tiles
from semfocus_plugin.lab.cli import app
from semfocus_plugin.optics import Beam

PIXEL = 40.0  # nm
DEPTH = 0.027
BEAM = Beam()


def plan(grid=(3, 2), region=None, overlap=0.1, **changes):
    values = {"place": (1.0, 2.0), "field": (0.02, 0.015), "magnification": 5000.0, "mode": ScanMode.FAST}
    return tiles.plan_tiles(grid, region, overlap, **{**values, **changes})


def test_tiles_go_back_and_forth_around_the_present_place():
    made = plan()
    assert [(tile.row, tile.column) for tile in made.tiles] == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    assert np.mean([(tile.x, tile.y) for tile in made.tiles], axis=0) == pytest.approx((1.0, 2.0))
    assert made.tiles[1].x - made.tiles[0].x == pytest.approx(0.018)
    assert made.tiles[5].y - made.tiles[0].y == pytest.approx(0.0135)


def test_a_region_is_covered_or_sampled():
    region = (0.0, 0.0, 0.1, 0.05)
    covering = plan(None, region)
    assert (covering.columns, covering.rows) == (6, 4)
    xs, ys = ([getattr(tile, axis) for tile in covering.tiles] for axis in "xy")
    assert min(xs) - 0.01 <= 0 <= 0.1 <= max(xs) + 0.01
    assert min(ys) - 0.0075 <= 0 <= 0.05 <= max(ys) + 0.0075
    sampling = plan((3, 2), region)
    assert [(tile.x, tile.y) for tile in sampling.tiles[:3]] == [(0.0, 0.0), (0.05, 0.0), (0.1, 0.0)]
    for grid, where in ((None, None), ((0, 2), None), ((2, 2), (1, 0, 0, 1)), ((10**4, 10**4), None)):
        with pytest.raises(semdrivers.SemDriversError):
            plan(grid, where)


def test_a_plan_comes_back_from_its_file(tmp_path):
    made = plan(astigmatism=0.3)
    made.save(tmp_path / "plan.json")
    assert tiles.Plan.load(tmp_path / "plan.json") == made
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(semdrivers.InvalidParameterError, match="no plan of tiles"):
        tiles.Plan.load(tmp_path / "plan.json")


def test_a_plan_of_which_no_tile_was_taken_gives_way(tmp_path):
    """As after a region beyond the limits of the stage, which the first move reports."""
    folder = tmp_path / "night"
    tiles.open_folder(folder, lambda: plan(region=(500.0, 0.0, 500.1, 0.1)), resume=False, overwrite=False)
    FocusMap().save(folder / tiles.MAP)
    made = plan()
    assert tiles.open_folder(folder, lambda: made, resume=False, overwrite=False) == made
    assert tiles.Plan.load(folder / tiles.PLAN) == made
    assert not (folder / tiles.MAP).exists()
    (folder / "tiles" / made.tiles[0].name).write_bytes(b"a picture")
    with pytest.raises(semdrivers.InvalidParameterError, match="--resume"):
        tiles.open_folder(folder, plan, resume=False, overwrite=False)


def test_a_file_is_no_folder_of_tiles(tmp_path):
    (tmp_path / "night").write_text("notes")
    with pytest.raises(semdrivers.InvalidParameterError, match="night is no folder"):
        tiles.open_folder(tmp_path / "night", plan, resume=False, overwrite=True)
    assert (tmp_path / "night").read_text() == "notes"


def texture(height, width, seed=0):
    """A field with power at all frequencies, 0 to 1."""
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    field = np.fft.irfft2(noise / np.maximum(frequency, 0.02) ** 0.8, (height, width))
    return (field - field.min()) / np.ptp(field)


def taken(field, working_distance, focus, rows, columns, seed):
    """A part of a field as a frame shows it: blurred by the disc of its defocus, with noise."""
    radius = float(BEAM.angle(focus)) * abs(working_distance - focus) / (PIXEL * 1e-6)
    frequency = np.hypot(np.fft.fftfreq(field.shape[0])[:, None], np.fft.rfftfreq(field.shape[1]))
    argument = np.maximum(2 * math.pi * radius * frequency, 1e-9)
    blurred = np.fft.irfft2(np.fft.rfft2(field) * 2 * j1(argument) / argument, field.shape)
    noise = np.random.default_rng(seed).normal(0, 4, field.shape)
    grey = np.clip(40 + 160 * blurred + noise, 0, 255).astype(np.uint8)
    return Image(grey[rows, columns], working_distance, 5000.0, PIXEL)


@pytest.mark.parametrize("off", [-1.0, -0.4, 0.0, 0.3, 0.8])
def test_two_neighbours_say_where_the_focus_is_sign_included(off):
    field = texture(256, 640)
    focus = 15.0 + off * DEPTH
    first = taken(field, 15.0 - 0.25 * DEPTH, focus, slice(0, 240), slice(0, 320), 1)
    second = taken(field, 15.0 + 0.25 * DEPTH, focus, slice(5, 245), slice(283, 603), 2)
    where = tiles.joint(first, second, 0.0, 288.0)
    assert (where.row, where.column) == pytest.approx((5, 283), abs=0.3)
    assert where.alike > 0.5
    found, sigma = tiles.focus_between(first, second, where, BEAM, DEPTH)
    assert abs(found - focus) < min(3 * sigma, 0.6 * DEPTH)


def test_neighbours_that_show_something_else_say_nothing():
    one, other = (
        taken(texture(240, 320, seed), 15.0 + seed * 0.01, 15.0, slice(None), slice(None), 1) for seed in (1, 2)
    )
    where = tiles.joint(one, other, 0.0, 288.0)
    assert where.alike < 0.3
    assert tiles.focus_between(one, other, where, BEAM, DEPTH) is None
    assert tiles.joint(one, other, 0.0, 315.0) is None
    same = tiles.Joint(0.0, 288.0, 0.9)
    assert tiles.focus_between(one, one, same, BEAM, DEPTH) is None


class Astigmatic:
    """An instrument of which every frame shows another field, blurred by the ellipse of defocus and astigmatism."""

    working_distance, magnification, stage_position = 15.0, 5000.0, (0.0, 0.0)
    own = 0.2 * DEPTH  # Of the column: it drops out
    matrix = ((0.0, 2.0), (-2.0, 0.0))  # µm a unit

    def __init__(self, focus, limit=100.0, matrix=matrix):
        self.capabilities = semdrivers.Capabilities(
            semdrivers.Range(1.0, 50.0), semdrivers.Range(20, 1e5), stigmator=semdrivers.Range(-limit, limit),
            stigmator_matrix=matrix,
        )  # fmt: skip
        self.focus, self.stigmator, self.frames = focus, (3.0, -1.0), 0
        self.start = self.stigmator

    def acquire(self, mode=None):
        self.frames += 1
        moved = np.subtract(self.stigmator, self.start)
        x, y = np.array(self.matrix) @ moved * 1e-3 + (0.0, self.own)
        z, angle = self.working_distance - self.focus, float(BEAM.angle(self.focus))
        field = texture(480, 640, self.frames)
        ky, kx = np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640)
        direction = 2 * np.arctan2(ky, kx)
        square = z * z + x * x + y * y + 2 * z * (x * np.cos(direction) + y * np.sin(direction))
        argument = np.maximum(2 * math.pi * np.hypot(ky, kx) * angle / (PIXEL * 1e-6) * np.sqrt(square), 1e-9)
        blurred = np.fft.irfft2(np.fft.rfft2(field) * 2 * j1(argument) / argument, field.shape)
        noise = np.random.default_rng(self.frames).normal(0, 4, field.shape)
        grey = np.clip(40 + 160 * blurred + noise, 0, 255).astype(np.uint8)
        return Image(grey, self.working_distance, self.magnification, PIXEL)

    def close(self):
        pass


def known_at(focus):
    known = FocusMap()
    known.add(0.0, 0.0, focus, depth_of_field=DEPTH, magnification=5000.0)
    return known


@pytest.mark.parametrize("off", [-0.5, 0.0, 0.4])
def test_two_pictures_of_opposite_astigmatism_say_where_the_focus_is_sign_included(off):
    bench, known = Astigmatic(15.0 + off * DEPTH), known_at(15.0)
    tracker = tiles.AstigmaticTracker(bench, known, 0.3)
    gave, settings = [], []
    for _ in range(2):
        with tracker.aside():
            settings.append(np.subtract(bench.stigmator, bench.start))
            image = bench.acquire()
        assert bench.stigmator == bench.start
        gave.append(tracker.add(image))
    assert gave == [False, True]
    assert settings[0] == pytest.approx(-settings[1])
    assert np.array(bench.matrix) @ settings[0] == pytest.approx((0.0, 300 * DEPTH))
    point = known.points[-1]
    assert point.source == tiles.SIDES
    assert abs(point.working_distance - bench.focus) < 0.2 * DEPTH
    with tracker.aside():
        image = bench.acquire()
    assert not tracker.add(image)  # A picture is compared once: points share no error


@pytest.mark.parametrize("other", ["size", "pixel", "place", "nothing", "within nothing"])
def test_two_pictures_that_cannot_be_compared_say_nothing(other):
    bench, known = Astigmatic(15.0), known_at(15.0)
    tracker = tiles.AstigmaticTracker(bench, known, 0.3)
    with tracker.aside():
        tracker.add(bench.acquire())
    with tracker.aside():
        image = bench.acquire()
    if other == "size":
        image = dataclasses.replace(image, pixels=image.pixels[:240])
    elif other == "pixel":
        image = dataclasses.replace(image, pixel_size=2 * PIXEL)
    elif other == "place":
        image = dataclasses.replace(image, working_distance=15.0 + 2 * DEPTH)
    elif other == "nothing":
        image = dataclasses.replace(image, pixels=np.full_like(image.pixels, 90))
    else:
        tracker.restart()
    assert not tracker.add(image)
    assert len(known.points) == 1


class Comparing:
    """Says where the focus between two pictures is, or raises."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    @semdrivers.hookimpl(tryfirst=True)
    def semdrivers_focus_between(self, first, second, row, column):
        self.asked.append((first.working_distance, second.working_distance, row, column))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "gives"), [((15.003, 0.001), True), ((15.003, DEPTH), False), (ValueError("no"), False)]
)
def test_the_focus_is_tracked_by_pictures_taken_aside_of_it(answer, gives):
    bench, known, plugin = Astigmatic(15.0), known_at(15.0), Comparing(answer)
    semdrivers.get_plugin_manager().register(plugin)
    try:
        tracker = FocusTracker(bench, known)
        focused = semdrivers.AutofocusResult(
            status="focused", reason="", working_distance=15.0, start_working_distance=15.0, score=8.0, confidence=1.0,
            frames=1, elapsed=1.0, method="test",
        )  # fmt: skip
        assert not tracker.add(bench.acquire())  # nobody has stepped aside
        for x, expected in ((0.0, False), (0.01, gives)):
            bench.stage_position = (x, 0.0)
            tracker.step_aside(focused, AutofocusSettings())
            assert tracker.add(bench.acquire()) is expected
        ((first, second, row, column),) = plugin.asked
        assert first - 15.0 == pytest.approx(15.0 - second)
        assert 0 < abs(first - 15.0) < DEPTH
        assert (row, column) == pytest.approx((0.0, 0.01 / (PIXEL * 1e-6)))
        assert len(known.points) == 1 + gives
        tracker.step_aside(focused, AutofocusSettings())
        assert not tracker.add(dataclasses.replace(bench.acquire(), pixels=np.zeros((240, 320), np.uint8)))
        assert len(plugin.asked) == 1
        here = bench.working_distance
        tracker.step_aside(focused, AutofocusSettings(bounds=(14.9, 14.95)))  # no place aside is within
        assert bench.working_distance == here
    finally:
        semdrivers.get_plugin_manager().unregister(plugin)


def test_the_stigmator_is_back_whatever_ends_a_picture_and_must_be_known():
    bench = Astigmatic(15.0)
    with pytest.raises(RuntimeError, match="link"), tiles.AstigmaticTracker(bench, known_at(15.0), 0.3).aside():
        raise RuntimeError("link lost")
    assert bench.stigmator == bench.start
    near = Astigmatic(15.0, limit=4.0)
    with pytest.raises(semdrivers.InvalidParameterError, match="beyond the limits of the stigmator"):
        tiles.AstigmaticTracker(near, known_at(15.0), 1.0).aside().__enter__()
    assert near.stigmator == near.start
    with pytest.raises(semdrivers.InvalidParameterError, match="calibrate --stigmator"):
        tiles.AstigmaticTracker(Astigmatic(15.0, matrix=None), known_at(15.0), 0.3)
    with pytest.raises(semdrivers.InvalidParameterError, match="leave one out"):
        plan(track=True, astigmatism=0.3)
    for amount in (-0.1, 1.5, math.nan):
        with pytest.raises(semdrivers.OutOfRangeError, match="astigmatism"):
            plan(astigmatism=amount)


@pytest.fixture
def cut(tmp_path):
    """A picture cut into tiles whose stage positions err by some pixels, as records."""
    whole = (255 * texture(420, 560, 3)).astype(np.uint8)
    made = plan((4, 4), (0.0, 0.0, 3 * 130e-6 * PIXEL, 3 * 95e-6 * PIXEL))
    jitter = np.random.default_rng(5)
    records, corners = {}, {}
    for tile in made.tiles:
        top, left = 8 + 95 * tile.row + int(jitter.integers(-3, 4)), 8 + 130 * tile.column + int(jitter.integers(-3, 4))
        about = {
            "stage": [tile.x, tile.y], "focus": "map", "reason": "", "score": 8.0, "focusing_frames": 0, "dose": None,
            "seconds": 1.0,
        }  # fmt: skip
        image = Image(whole[top : top + 120, left : left + 160], 15.0, 5000.0, PIXEL, metadata={"tile": about})
        (tmp_path / "tiles").mkdir(exist_ok=True)
        image.save(tmp_path / "tiles" / tile.name)
        corners[tile.index] = (top, left)
    records = tiles.read_tiles(tmp_path, made)
    return whole, records, corners


def test_the_mosaic_is_the_picture_again(cut):
    whole, records, corners = cut
    placed = tiles.place(records)
    assert len(placed.seams) == 24
    assert (placed.seams < 1).mean() >= 0.95
    origin = np.min(list(corners.values()), axis=0)
    for index, corner in corners.items():
        assert placed.positions[index] == pytest.approx(np.subtract(corner, origin), abs=1.0)
    mosaic = tiles.assemble(records, placed)
    height, width = mosaic.shape
    part = whole[origin[0] : origin[0] + height, origin[1] : origin[1] + width]
    assert np.mean(mosaic[20:-20, 20:-20] == part[20:-20, 20:-20]) > 0.9


@pytest.mark.parametrize("no_tile", [b"half of a picture", {"stage": None}])
def test_a_file_that_is_being_copied_or_is_no_tile_is_named_and_the_others_are_reported(cut, tmp_path, no_tile):
    plan((4, 4), (0.0, 0.0, 3 * 130e-6 * PIXEL, 3 * 95e-6 * PIXEL)).save(tmp_path / "plan.json")
    path = cut[1][5].path
    if isinstance(no_tile, bytes):
        path.write_bytes(no_tile)
    else:
        Image(cut[0], 15.0, 5000.0, PIXEL, metadata={"tile": no_tile}).save(path, overwrite=True)
    done = semfocus("report", tmp_path, "-o", tmp_path / "r.html")
    assert (done.exit_code, path.name in done.stderr) == (1, True), done.output
    assert "15 of 16 tiles" in done.stdout


def test_the_mosaic_opens_with_scale_and_levels(tmp_path):
    mosaic = (255 * texture(1100, 1300)).astype(np.uint8)
    path = tiles.write_mosaic(tmp_path / "mosaic.ome.tif", mosaic, PIXEL)
    with tifffile.TiffFile(path) as file:
        assert [level.shape for level in file.series[0].levels] == [(1100, 1300), (550, 650)]
        assert np.array_equal(file.asarray(), mosaic)
    assert semdrivers.read_image(path).pixel_size == pytest.approx(PIXEL)
    ((pixels, about, _),) = napari.read(str(path))
    assert np.array_equal(pixels, mosaic)
    assert about["scale"] == pytest.approx((PIXEL * 1e-3, PIXEL * 1e-3))
    with pytest.raises(semdrivers.ExistingFileError):
        tiles.write_mosaic(path, mosaic, PIXEL)


def test_another_reader_of_ome_tiff_has_pixels_and_scale(tmp_path):
    bioio = pytest.importorskip("bioio", reason="bioio is not installed: pip install bioio bioio-ome-tiff")
    mosaic = (255 * texture(1100, 1300)).astype(np.uint8)
    opened = bioio.BioImage(tiles.write_mosaic(tmp_path / "mosaic.ome.tif", mosaic, PIXEL))
    assert np.array_equal(np.squeeze(opened.data), mosaic)
    assert opened.physical_pixel_sizes.Y == opened.physical_pixel_sizes.X == pytest.approx(PIXEL * 1e-3)


URL = "emulator://gold-nanoparticles?seed=3&magnification=5000"


def semfocus(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_sample_is_taken_and_gone_on_with(tmp_path):
    folder = tmp_path / "night"
    arguments = ("tile", URL, "--mode", "fast", "-o", folder, "--json")
    done = semfocus(*arguments, "--grid", "2x1", "--track")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["tiles"] == said["planned"] == 2
    assert said["not_focused"] == 0
    assert said["largest_dose"] > 2e4  # A FAST frame at 5000×, and its focusing
    assert said["joints_below_a_pixel"] == 1
    made = tiles.Plan.load(folder / "plan.json")
    records = tiles.read_tiles(folder, made)
    assert sum(record.frames for record in records.values()) == said["focusing_frames"]
    depth = FocusMap.load(folder / "map.json").depth_of_field()
    for record in records.values():
        image = semdrivers.read_image(record.path)
        assert image.metadata["autofocus"]["status"] == "focused"
        assert (record.x, record.y) == pytest.approx((record.tile.x, record.tile.y), abs=0.001)
        assert abs(image.metadata["autofocus"]["lens_offset"]) == pytest.approx(0.25 * depth, abs=0.3 * depth)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 2
    assert "second look: 0" in page

    kept = {path: path.read_bytes() for path in (folder / "tiles").iterdir()}
    gone = next(iter(kept))
    gone.unlink()
    (folder / "tiles" / f".{gone.name}.0123.tmp").write_bytes(b"half of a picture")
    refused = semfocus(*arguments, "--grid", "2x1")
    assert refused.exit_code == 2
    assert "--resume" in refused.output
    assert semfocus(*arguments, "--grid", "3x2", "--resume").exit_code == 2
    again = semfocus(*arguments, "--resume")
    assert again.exit_code == 0, again.output
    assert set((folder / "tiles").iterdir()) == set(kept)
    assert all(path.read_bytes() == kept[path] for path in kept if path != gone)


def test_options_that_cannot_be_are_refused_before_anything_moves(tmp_path):
    for options in (("--grid", "2by2"), ("--region", "0,0,1"), (), ("--grid", "2x2", "--mode", "none"),
                    ("--resume", "--overwrite")):  # fmt: skip
        assert semfocus("tile", URL, "-o", tmp_path / "night", *options).exit_code == 2
    assert not (tmp_path / "night").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    assert semfocus("tile", URL, "-o", tmp_path / "other", "--grid", "2x2", "--overwrite").exit_code == 2
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


def test_a_sample_without_anything_to_focus_on_is_refused(tmp_path):
    url = "emulator://featureless?seed=1&magnification=1000"
    refused = semfocus("tile", url, "--grid", "1x1", "-o", tmp_path / "night", "--mode", "fast", "--json")
    assert refused.exit_code == 3
    assert "shows a focus" in json.loads(refused.stdout)["error"]["message"]


@pytest.mark.slow
def test_the_command_says_in_words_what_it_took(tmp_path):
    options = ("--mode", "fast", "--magnification", 4000, "--method", "defocus-pair", "--no-mosaic")
    done = semfocus("tile", URL, "--grid", "2x1", "-o", tmp_path / "night", *options)
    assert done.exit_code == 0, done.output
    assert "tiles: 2" in done.stdout
    assert "second look: none" in done.stdout
    assert "mosaic" not in done.stdout
    assert re.search(r"2 of 2: tile_r000_c001.ome.tif by (run|map), score \d", done.stderr)
    made = tiles.Plan.load(tmp_path / "night" / "plan.json")
    assert made.magnification == 4000
    assert len(tiles.read_tiles(tmp_path / "night", made)) == 2
    page = tmp_path / "tiles.html"
    for options in (("--figures", tmp_path / "figures"), ("--overwrite",)):
        made = semfocus("report", tmp_path / "night", "-o", page, *options)
        assert "2 of 2 tiles" in made.stdout, made.output
    assert (tmp_path / "figures" / "map.pdf").read_bytes().startswith(b"%PDF")
    assert semfocus("report", tmp_path / "night", tmp_path, "-o", tmp_path / "b.html").exit_code == 2


SCRIPT = """
import os, random, signal, sys, time, traceback
from pathlib import Path
import numpy as np
import semdrivers
from semfocus_plugin import tiles

root, kills = Path(sys.argv[1]), int(sys.argv[2])
moments = random.Random(int(sys.argv[3]))
SMALL = semdrivers.ScanMode("SMALL", 320, 240)


class Bench:
    capabilities = semdrivers.Capabilities(
        semdrivers.Range(1.0, 50.0, 0.001), semdrivers.Range(20, 1e5), scan_modes=(SMALL,)
    )
    working_distance, magnification, stage_position = 15.0, 5000.0, (0.0, 0.0)

    def __init__(self, log):
        self.log = log

    def move_stage(self, x, y):
        self.stage_position = (x, y)
        return x, y

    def acquire(self, mode):
        os.write(self.log, b"%f %f\\n" % self.stage_position)
        pixels = np.full((240, 320), int(1000 * abs(self.stage_position[0])) % 256, np.uint8)
        return semdrivers.Image(pixels, self.working_distance, self.magnification, 20.0, scan_mode=mode)

    def close(self):
        pass


def make():
    return tiles.plan_tiles((6, 5), None, 0.1, place=(0.0, 0.0), field=(0.0064, 0.0048), magnification=5000.0, mode=SMALL)


def work(folder):
    log = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    plan = tiles.open_folder(folder, make, resume=True, overwrite=False)
    if not (folder / tiles.MAP).exists():
        known = semdrivers.FocusMap(tolerance=1.0)
        known.add(0.0, 0.0, 15.0, depth_of_field=0.03)
        known.save(folder / tiles.MAP)
    tiles.take_tiles(Bench(log), folder, plan)


began = time.perf_counter()
work(root / "whole")
a_tile = (time.perf_counter() - began) / 30
killed = run = 0
while killed < kills:
    folder, done, number, code = root / f"night{run}", 0, 0, None
    while code != 0:
        child = os.fork()
        if not child:
            try:
                work(folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if killed < kills:
            # From the reading of the plan to somewhere between and within the files of a few tiles
            time.sleep(moments.uniform(0.0, 8 * a_tile))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        pictures = sorted((folder / "tiles").glob("tile_*.ome.tif"))
        for path in pictures:
            assert semdrivers.read_image(path).metadata["tile"]["focus"] == "map"
        assert len(pictures) >= done
        done = len(pictures)
        if (folder / tiles.MAP).exists():
            semdrivers.FocusMap.load(folder / tiles.MAP)
        number += code != 0
        killed += code != 0
    assert done == 30
    assert list(folder.rglob(".*")) == []
    frames = folder.with_suffix(".txt").read_text().splitlines()
    assert 30 <= len(frames) <= 30 + number, (len(frames), number)
    assert len(set(frames)) == 30
    run += 1
print(killed)
"""


def killed_at_random(tmp_path, kills, seed):
    """Take tiles in processes that are killed and followed by others, until so many were killed."""
    script = tmp_path / "bench.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == kills


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_run_that_is_killed_goes_on_and_repeats_one_tile_at_most(tmp_path):
    killed_at_random(tmp_path, 5, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_run_that_is_killed_at_fifty_random_moments(tmp_path):
    killed_at_random(tmp_path, 50, 2)


def test_only_doubtful_tiles_need_a_second_look():
    tile = plan().tiles[0]

    def record(focus, score):
        return tiles.TileRecord(tile, Path("a"), 0, 0, 15, 40, focus, "dust", score, 0, math.nan, 1.0)

    records = {0: record("map", 8.5), 1: record("run", 8.3), 2: record("map", 4.0), 3: record("none", 8.4),
               4: record("map", math.nan)}  # fmt: skip
    assert set(tiles.second_look(records)) == {2, 3}
    assert "dust" in tiles.second_look(records)[3]
