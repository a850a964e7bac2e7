"""The command line of the product: what a person at a microscope needs."""

from semfocus_plugin.cli._display import FrameTable, bar, cancelled_by_interrupt, progress_bar, progress_bars
from semfocus_plugin.cli._main import Json, MaxFrames, MethodName, Overwrite, app, leave, print_result
from semfocus_plugin.cli._moved import moved

__all__ = [
    "FrameTable", "Json", "MaxFrames", "MethodName", "Overwrite", "app", "bar", "cancelled_by_interrupt", "leave",
    "moved", "print_result", "progress_bar", "progress_bars",
]  # fmt: skip
