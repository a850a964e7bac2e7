"""What a training frame costs: drawing its field, shared by all frames of it, beside rendering alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from semfocus_plugin.lab.training.datasets import FRAMES_PER_FIELD, MIXTURES
from semfocus_plugin.lab.training.sampling import draw_field, draw_sample

__all__ = ["frame_cost", "table"]


def frame_cost(mixture: str, fields: int, seed: int) -> tuple[float, float]:
    """Return processor seconds of a training frame, all in all, and of rendering it again with everything at hand."""
    random = np.random.default_rng(seed)
    whole = again = 0.0
    for _ in range(fields):
        began = time.process_time()
        field = draw_field(random, mixture)
        state = random.bit_generator.state
        for repeat in range(2):
            random.bit_generator.state = state
            for number in range(FRAMES_PER_FIELD):
                draw_sample(random, field, mixture, number)
            ended = time.process_time()
            if repeat:
                again += ended - began
            else:
                whole += ended - began
            began = ended
    return whole / (fields * FRAMES_PER_FIELD), again / (fields * FRAMES_PER_FIELD)


def table(fields: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Yield ms of a training frame, of rendering alone, their ratio and frames a second; headings first."""
    yield "mixture", "a training frame, ms", "rendering alone, ms", "ratio", "frames a second and core"
    for mixture in MIXTURES:
        whole, rendering = frame_cost(mixture, fields, seed)
        yield mixture, f"{whole * 1e3:.1f}", f"{rendering * 1e3:.1f}", f"{whole / rendering:.2f}", f"{1 / whole:.0f}"
