"""The command line of the product: what a person at a microscope needs."""

from semfocus_plugin.cli._display import FrameTable, bar, cancelled_by_interrupt, progress_bar, progress_bars
from semfocus_plugin.cli._main import app, leave, print_result
from semfocus_plugin.cli._moved import moved
from semfocus_plugin.cli._options import MaxFrames, MethodName

__all__ = [
    "FrameTable", "MaxFrames", "MethodName", "app", "bar", "cancelled_by_interrupt", "leave",
    "moved", "print_result", "progress_bar", "progress_bars",
]  # fmt: skip
