"""How well a method focuses: many runs on the emulator, through the shipped driver, against its ground truth."""

from semfocus_plugin.lab.benchmark.cases import Case, draw_cases
from semfocus_plugin.lab.benchmark.runs import RunRecord, run_case, run_cases
from semfocus_plugin.lab.benchmark.tables import Summary, markdown, summarise

__all__ = [
    "Case",
    "RunRecord",
    "Summary",
    "draw_cases",
    "markdown",
    "run_case",
    "run_cases",
    "summarise",
]
