"""The figures of a run: written whole, for every kind of result, without touching pyplot."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from matplotlib.text import Text

import semdrivers
from semdrivers.files import plot_before_after, plot_result


def result(status="focused", frames=6) -> semdrivers.AutofocusResult:
    trace = tuple(
        semdrivers.FocusStep(i, ("search", "control", "verify")[i % 3], 18 - i * 0.2, 5000, 1.4 * (i % 6), 0.1, 5.0)
        for i in range(frames)
    )
    return semdrivers.AutofocusResult(
        status=status, reason="µ & <so>", working_distance=16.74, start_working_distance=18.0, score=8.7, confidence=0.9,
        frames=frames, elapsed=1.3, method="dual-network", trace=trace,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "frames"), [("refused", 0), ("cancelled", 1), ("focused", 60)])
def test_a_result_is_drawn(tmp_path, status, frames):
    path = result(status, frames).plot(tmp_path / "run.png")
    pixels = semdrivers.read_pixels(path)
    assert pixels.shape[1] > 1000
    assert pixels.std() > 5


@pytest.mark.parametrize("pixel_size", [1250.0, float("nan")])
def test_before_and_after_are_drawn(tmp_path, pixel_size):
    dark, bright = (np.full((240, 320), level, np.uint8) for level in (40, 200))
    path = plot_before_after(dark, bright, ("before", "after"), pixel_size, tmp_path / "pair.png")
    assert semdrivers.read_pixels(path).shape[1] > 1000


def test_the_figure_says_where_when_and_why():
    from dataclasses import replace

    about = {"time": 0.0, "instrument": {"model": "EM-30", "serial": "7"}}
    posterior = tuple(np.linspace(16.70, 16.78, 9))
    figure = replace(result("refused"), reason="costs $5 " * 40, provenance=about, posterior=posterior).plot()
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    for part in ("EM-30 7", "1970-01-01 00:00 UTC", "5000×", "refused at 16.740 mm", "focus 16.740 ± 0.027 mm"):
        assert part in said
    lines = [line for text in figure.findobj(Text) for line in text.get_text().split("\n")]
    assert max(map(len, lines)) <= 120


def test_the_curve_runs_along_the_working_distance():
    from dataclasses import replace

    drawn = result()
    lines = replace(drawn, trace=(*drawn.trace[3:], *drawn.trace[:3])).plot().axes[0].get_lines()
    (curve,) = [line for line in lines if len(line.get_xdata()) == len(drawn.trace)]
    assert list(curve.get_xdata()) == sorted(step.working_distance for step in drawn.trace)


def test_a_notebook_without_html_gets_a_picture():
    assert result()._repr_png_().startswith(b"\x89PNG")
    assert result().plot()._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_vector_formats(tmp_path, suffix):
    assert plot_result(result().to_dict(), tmp_path / f"run{suffix}").stat().st_size > 5000


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(semdrivers.InvalidParameterError, match=r"run\.txt: a figure's name ends in"):
        plot_result(result().to_dict(), tmp_path / "run.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_threads_draw_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda i: plot_result(result().to_dict(), tmp_path / f"{i}.png"), range(4)))
    contents = {path.read_bytes() for path in paths}
    assert len(contents) == 1


def test_pyplot_is_left_alone(tmp_path):
    code = (
        "import sys, semdrivers; "
        "semdrivers.AutofocusResult(status='refused', reason='', working_distance=1.0, start_working_distance=1.0, "
        "score=0.0, confidence=0.0, frames=0, elapsed=0.0, method='m').plot(sys.argv[1]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run.png")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
