"""Peers on an analytic microscope: a disc of radius α|z| over a texture, and nothing else."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdrivers import Capabilities, Image, Range, ScanMode
from semdrivers.emulator.physics import frequency_grid
from semfocus_plugin.lab.benchmark import peers
from semfocus_plugin.lab.benchmark.peers import Answer, Bench, Optics, pair_bound, zoom_ladder
from semfocus_plugin.lab.benchmark.peers.sharpness import tenengrad, vertex
from semfocus_plugin.lab.benchmark.runs import CountedMicroscope

OPTICS = Optics(aperture_radius=0.045, core=36e-6)
SHAPE = (240, 320)


class Analytic:
    """The five members; the same texture at every magnification, so that a ladder has something to see."""

    def __init__(self, best: float = 15.0, magnification: float = 2000.0, working_distance: float = 15.0) -> None:
        self.best = best
        self.magnification = magnification
        self.working_distance = working_distance
        self.capabilities = Capabilities(Range(1.0, 50.0, 0.001), Range(20, 150_000))
        self.random = np.random.default_rng(5)
        grid = frequency_grid(SHAPE)
        wave = np.sqrt(grid.kx**2 + grid.ky**2)
        self.texture = np.fft.rfft2(self.random.normal(size=SHAPE)) / np.maximum(wave, 0.05)
        self.visited: list[tuple[float, float]] = []

    @property
    def depth_of_field(self) -> float:
        return math.hypot(0.4 / self.magnification, OPTICS.core) / OPTICS.aperture_radius * self.best

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        pixel = 0.4 / self.magnification
        radius = OPTICS.aperture_radius / self.working_distance * abs(self.working_distance - self.best) / pixel
        seen = np.fft.irfft2(self.texture * frequency_grid(SHAPE).disc(radius, radius, 0.0), SHAPE)
        noisy = 128 + 12 * seen + self.random.normal(0, 4, SHAPE)
        self.visited.append((self.working_distance, self.magnification))
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        return Image(pixels, self.working_distance, self.magnification, pixel * 1e6)

    def close(self) -> None: ...


def bench_on(microscope: Analytic, reach: float = 10.0, start: float = 6.0) -> Bench:
    microscope.working_distance = microscope.best + start * microscope.depth_of_field
    half = reach * microscope.depth_of_field
    place = microscope.working_distance
    return Bench(microscope, OPTICS, (place - half, place + half), place)


def installed(name: str) -> peers.Peer:
    peer = next(peer for peer in peers.PEERS if peer.name == name)
    missing = peers.missing_packages(peer)
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}")
    return peer


NAMES = [peer.name for peer in peers.PEERS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", [-7.0, 4.0])
def test_every_peer_focuses_in_a_near_window(name, start):
    peer = installed(name)
    microscope = Analytic()
    answer = peer.find(bench_on(microscope, start=start))
    assert answer.claimed, answer.reason
    assert abs(answer.working_distance - microscope.best) <= microscope.depth_of_field
    assert len(microscope.visited) <= 24


@pytest.mark.parametrize("name", ["brent", "golden-section", "two-pass-sweep"])
def test_peers_bracket_first_where_the_window_is_wide(name):
    peer = installed(name)
    microscope = Analytic(magnification=8000.0)
    answer = peer.find(bench_on(microscope, reach=44.0, start=35.0))
    assert abs(answer.working_distance - microscope.best) <= microscope.depth_of_field


def test_ladder_comes_down_from_anywhere_and_puts_the_magnification_back():
    peer = installed("golden-section")
    microscope = Analytic(best=13.2, magnification=8000.0, working_distance=28.0)
    answer = zoom_ladder.climb(peer.find, microscope, OPTICS, (5.0, 30.0))
    assert abs(answer.working_distance - microscope.best) <= microscope.depth_of_field
    assert microscope.magnification == 8000.0
    rungs = list(dict.fromkeys(magnification for _, magnification in microscope.visited))
    assert rungs == sorted(rungs)
    assert rungs[0] < 200
    assert max(b / a for a, b in itertools.pairwise(rungs)) <= zoom_ladder.FACTOR + 0.1


def test_ladder_stops_at_the_rung_that_refuses():
    microscope = Analytic(magnification=8000.0)
    answer = zoom_ladder.climb(lambda bench: Answer(bench.start, False, "nothing"), microscope, OPTICS, (5.0, 30.0))
    assert not answer.claimed
    assert "nothing" in answer.reason
    assert microscope.magnification == 8000.0


@given(st.floats(1.0, 50.0), st.floats(0.2, 30.0), st.floats(-80.0, 80.0))
def test_bench_never_leaves_its_window_and_keeps_to_the_grid(start, half, coordinate):
    microscope = Analytic(working_distance=start)
    bench = Bench(microscope, OPTICS, (start - half, start + half), start)
    place = bench.place(coordinate)
    low, high = bench.window
    assert low <= place <= high
    assert place in microscope.capabilities.working_distance
    if low + 0.001 < place < high - 0.001:
        assert abs(bench.coordinate(place) - coordinate) * bench.scale * place <= 0.00051


def test_a_unit_of_the_coordinate_is_a_depth_of_field():
    bench = bench_on(Analytic(), start=0.0)
    assert bench.place(1.0) - 15.0 == pytest.approx(Analytic().depth_of_field, rel=0.02)


def test_sharpness_falls_with_blur_and_a_place_is_looked_at_once():
    microscope = Analytic()
    bench = bench_on(microscope, start=0.0)
    values = [bench.sharpness(coordinate) for coordinate in (0.0, 2.0, 4.0, 8.0)]
    assert values == sorted(values, reverse=True)
    bench.sharpness(2.0)
    assert len(microscope.visited) == 4
    assert abs(bench.sharpest) < 0.1


def test_tenengrad_of_a_flat_frame_is_zero():
    assert tenengrad(np.full(SHAPE, 100.0)) == 0.0


def test_vertex_is_that_of_the_parabola_and_stays_between_the_neighbours():
    places = np.array([-2.0, 0.0, 1.0, 3.0])
    assert vertex(places, -((places - 0.4) ** 2)) == pytest.approx(0.4)
    assert vertex(places, np.array([4.0, 3.0, 2.0, 1.0])) == -2.0
    assert -2.0 <= vertex(places, np.array([0.0, 1.0, 0.999, 0.0])) <= 1.0


def test_counted_microscope_counts_frames_and_places():
    counted = CountedMicroscope(Analytic())
    counted.working_distance = 14.0
    counted.acquire()
    counted.magnification = 1000.0
    counted.acquire()
    assert counted.frames == 2
    assert counted.visits == [(14.0, 2000.0), (14.0, 1000.0)]
    assert counted.seconds_inside >= 0.0


def test_absent_packages_are_named():
    peer = peers.Peer("none", "", lambda bench: Answer(0.0), ("a_module_that_nobody_has", "math"))
    assert peers.missing_packages(peer) == ("a_module_that_nobody_has",)


def test_oracle_errs_by_a_hundredth_of_the_start():
    errors = np.array([pair_bound.residual(-40.0, seed) for seed in range(400)])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(0.4, rel=0.15)
    assert pair_bound.residual(-40.0, 3) == pair_bound.residual(40.0, 3)
