"""ACNet's offline test on held-out focal series (Table 1, lower part), and what it loses without parts of its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semfocus_plugin.lab.benchmark.reproduction.estimates import mean, median
from semfocus_plugin.lab.benchmark.reproduction.exhibit import Line
from semfocus_plugin.lab.benchmark.reproduction.published import ACNET
from semfocus_plugin.lab.benchmark.reproduction.request import Stage
from semfocus_plugin.lab.parallel import required
from semfocus_plugin.lab.training.curves import Curves
from semfocus_plugin.lab.training.playground import Episodes, Playground, Policy, offline_test
from semfocus_plugin.networks import LAWS, Controller, MaximumAction

__all__ = ["EPISODES", "VARIANTS", "episodes_of", "lines", "policy_of", "train_variant"]

EPISODES = 256
"""Episodes of each specimen."""

_SCORE_NOISE = 0.2  # The paper's: standard deviation of the noise on the score is up to this

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "proposed": (),
    "without score": ("score",),
    "without variance and entropy": ("variance", "entropy"),
}
"""Table S1: what the state holds as zeros."""

_MEASURES = {
    "selected_score": ("Average of selected score", 3),
    "score_gap": ("Average of score diff", 3),
    "iterations": ("Average of iteration", 2),
    "squared_error": ("MSE, shares of A_max", 4),
}


def policy_of(controller: Controller) -> Policy:
    """Return a controller as a policy over many episodes."""
    return lambda states: np.array([controller(state) for state in states])


def episodes_of(
    policy: Policy, maximum: MaximumAction, curves: Curves, seed: int, blanked: Sequence[str] = ()
) -> dict[str, Episodes]:
    """Return the episodes of a policy on the curves of every specimen."""
    conditions: dict[str, Any] = {"maximum": maximum, "score_noise": _SCORE_NOISE, "blanked": blanked}
    return {
        specimen: offline_test(
            policy,
            Playground(curves.of(specimen), np.random.default_rng([seed, 1 << 20]), episodes=EPISODES, **conditions),
        )
        for specimen in dict.fromkeys(curves.specimen)
    }


def lines(group: str, tested: Mapping[str, Episodes], *, published: bool) -> list[Line]:
    """Return the paper's four measures and the error in depths of field; series are what is drawn for intervals."""
    table = [
        Line(
            group,
            title,
            {name: mean(getattr(episodes, key), episodes.series) for name, episodes in tested.items()},
            ACNET[key] if published else {},
            digits,
        )
        for key, (title, digits) in _MEASURES.items()
    ]
    errors = {name: median(episodes.distance, episodes.series) for name, episodes in tested.items()}
    return [*table, Line(group, "median error, DoF", errors, digits=2)]


def train_variant(name: str, curves: Curves, epochs: int | None, stage: Stage) -> tuple[Policy, MaximumAction]:
    """Train an ACNet that never sees parts of its state (a key of `VARIANTS`), by the recipe of the shipped one.

    Raises
    ------
    AutofocusError
        When torch is not installed.
    """
    acnet = required("semfocus_plugin.lab.training.acnet", "Table S1 trains networks and", "train")
    config = acnet.ACNetConfig(("held in memory",), blanked=VARIANTS[name])
    config = config if epochs is None else dataclasses.replace(config, epochs=epochs)
    return acnet.train_policy(config, curves, stage(f"training ACNet, {name}", config.epochs)), LAWS[config.action_law]
