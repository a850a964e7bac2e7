"""fibsem-os's ``run_auto_focus`` from the package ``fibsem``, on an adapter; two sweeps in depths of field."""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer, approach

__all__ = ["PEER"]

_COARSE_STEP = 2.0  # depths of field in a near window: the package's default of 11 frames
_WIDE_STEP = 6.0  # depths of field in a wide window
_FINE_STEPS = 10  # steps of the fine sweep, which spans two coarse steps, as in the package's default


class _Adapter:
    """The members of a ``FibsemMicroscope`` that the function calls; lengths in m."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def is_working_distance_settable(self, beam_type: object) -> bool:
        return True

    def get_working_distance(self, beam_type: object) -> float:
        return self._bench.microscope.working_distance * 1e-3

    def set_working_distance(self, value: float, beam_type: object) -> None:
        approach(self._bench.microscope, self._bench.limits, round(value * 1e3, 3))

    def acquire_image(self, image_settings: object) -> Any:
        from fibsem.structures import FibsemImage

        return FibsemImage(np.ascontiguousarray(self._bench.microscope.acquire().pixels))


def _find(bench: Bench) -> Answer:
    """Run the package's function over the window."""
    # The package prints as it is imported, and logs what it raises; our stdout is for the report alone.
    logging.getLogger("fibsem").setLevel(logging.CRITICAL + 1)
    with redirect_stdout(None):
        from fibsem.autofunctions.autofocus import AutoFocusSettings, FocusSweepPass, run_auto_focus
        from fibsem.structures import BeamType

    low, high = bench.window
    centre, span = (low + high) / 2, high - low
    step = (_WIDE_STEP if bench.wide else _COARSE_STEP) * bench.scale * centre
    bench.microscope.working_distance = bench.limits.clip(round(centre, 3))
    passes = [
        FocusSweepPass(search_range=span * 1e-3, step_size=step * 1e-3),
        FocusSweepPass(search_range=2 * step * 1e-3, step_size=2 * step / _FINE_STEPS * 1e-3),
    ]
    settings = AutoFocusSettings(passes=passes, use_autocontrast=False)
    adapter: Any = _Adapter(bench)
    result = run_auto_focus(adapter, BeamType.ELECTRON, settings=settings)
    if result is None:
        return Answer(centre, False, "the package skipped the run")
    return Answer(bench.limits.clip(round(result.working_distance * 1e3, 3)), True, "the sharpest frame")


PEER = Peer("fibsem", "fibsem-os run_auto_focus (package fibsem 0.5.3): two sweeps, Tenengrad", _find, ("fibsem",))
"""The method, as the benchmark runs it."""
