"""The paper's tables and figures, repeated with our networks on the emulator, the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from semfocus_plugin.lab.benchmark.reproduction.ellipses import table_ellipses
from semfocus_plugin.lab.benchmark.reproduction.exhibit import Exhibit
from semfocus_plugin.lab.benchmark.reproduction.figures import figure_3, figure_4
from semfocus_plugin.lab.benchmark.reproduction.offline import table_1, table_s1, table_unseen
from semfocus_plugin.lab.benchmark.reproduction.online import figure_5, table_2, table_3
from semfocus_plugin.lab.benchmark.reproduction.request import HELD_OUT_SEED, Request, Stage

Builder = Callable[[Request, Stage], Exhibit]
"""Makes a table or figure of the paper."""

TABLES: Mapping[str, Builder] = MappingProxyType(
    {"1": table_1, "2": table_2, "3": table_3, "S1": table_s1, "unseen": table_unseen, "ellipses": table_ellipses}
)
"""Builders of the tables, by the name that the command takes."""
FIGURES: Mapping[str, Builder] = MappingProxyType({"3": figure_3, "4": figure_4, "5": figure_5})
"""Builders of the figures, by the name that the command takes."""

__all__ = ["FIGURES", "HELD_OUT_SEED", "TABLES", "Builder", "Exhibit", "Request", "Stage"]
