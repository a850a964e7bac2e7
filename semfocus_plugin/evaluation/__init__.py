"""How well a method focuses: many runs on the emulator, through the shipped driver, against its ground truth."""

from semfocus_plugin.evaluation.cases import Case, draw_cases
from semfocus_plugin.evaluation.runs import RunRecord, run_case, run_cases
from semfocus_plugin.evaluation.tables import Summary, markdown, summarise

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
