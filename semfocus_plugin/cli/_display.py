"""What the commands show while the lens moves, and how Ctrl-C reaches it."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from semdrivers.console import messages
from semdrivers.focus import FocusStep

_ROWS = 24
_BLOCKS = "▏▎▍▌▋▊▉█"
_BAR = 18
_LINE = "{:>5}  {:10}  {:>16}  {:>13}  {:>5}"


class FrameTable:
    """A table of frames that grows while autofocus runs; give its `add` to ``progress``.

    It appears with the first frame, and stays when its context ends. Where messages go to a pipe or a file, each frame
    is a line of its own, printed as it comes.
    """

    def __init__(self) -> None:
        self._steps: list[FocusStep] = []
        self._live = Live(self._table(), console=messages, auto_refresh=False, transient=False)

    def __enter__(self) -> FrameTable:
        return self

    def __exit__(self, *details: object) -> None:
        self._live.stop()

    def add(self, step: FocusStep) -> None:
        """Show one more frame."""
        self._steps.append(step)
        if not messages.is_terminal:
            if len(self._steps) == 1:
                messages.print(_LINE.format("frame", "phase", "working distance", "magnification", "score"))
            if step.astigmatism is not None:
                components, picture = _ellipse(step.astigmatism)
                messages.print(f"       astigmatism {components} µm {picture}", markup=False)
            cells = f"{step.working_distance:.3f} mm", f"{step.magnification:g}×", f"{step.score:.2f}"
            messages.print(_LINE.format(step.frame, step.phase, *cells), markup=False)
            return
        self._live.start()
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("frame", "phase"):
            table.add_column(heading, justify="right" if heading == "frame" else "left")
        table.add_column("working distance", justify="right")
        table.add_column("magnification", justify="right")
        table.add_column("score", justify="right")
        table.add_column("", width=_BAR)
        stigmated = any(step.astigmatism is not None for step in self._steps)
        if stigmated:
            table.add_column("astigmatism before, x y ± (µm)", justify="right")
            table.add_column("")
        best = max((step.score for step in self._steps), default=0.0)
        for step in self._steps[-_ROWS:]:
            style = "bold green" if step.score == best and best > 0 else ""
            table.add_row(
                str(step.frame),
                step.phase,
                f"{step.working_distance:.3f} mm",
                f"{step.magnification:g}×",
                Text(f"{step.score:.2f}", style=style),
                Text(bar(step.score / 9.0), style=style or "cyan"),
                *(_ellipse(step.astigmatism) if stigmated else ()),
            )
        return table


def _ellipse(astigmatism: tuple[float, float, float] | None) -> tuple[str, str]:
    """Return both components with their uncertainty, and how the blur lies above the focus: round, or along a line."""
    if astigmatism is None:
        return "", ""
    x, y, sigma = astigmatism
    direction = "━╲┃╱"[round(math.degrees(0.5 * math.atan2(y, x)) / 45) % 4]
    return f"{x:+.3g} {y:+.3g} ±{sigma:.2g}", "●" if math.hypot(x, y) < 2 * sigma else direction


def bar(share: float) -> str:
    """Return a horizontal bar, full for a share of 1."""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_BLOCKS[rest - 1] if rest else "")


def progress_bar() -> Progress:
    """Return a progress bar on stderr, to be used as a context."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=messages)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[object], None]]]:
    """Show bars on stderr: call what this gives with a title and the steps in all, then what that gives every step."""
    with progress_bar() as progress:

        def stage(description: str, steps: int) -> Callable[[object], None]:
            task = progress.add_task(description, total=steps)
            return lambda result: progress.advance(task)

        yield stage


@contextmanager
def cancelled_by_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a cancel, obeyed before the next frame; a second one interrupts at once.

    Outside of the main thread, where signals cannot be caught, the event is just never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        messages.print("cancelling: the lens goes back to its start (Ctrl-C again to interrupt at once)")

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
