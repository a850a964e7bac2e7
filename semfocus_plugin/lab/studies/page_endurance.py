"""What the live page and its server take while frames come for half an hour: memory, and the server's share of a core.

::

    python -m semfocus_plugin.lab.studies.page_endurance 18000

Emulator, server and Chromium are processes of their own. The page scans as fast as the three allow, so that the frames
of half an hour at ten a second take less where there are cores enough; `--unhurried` leaves it at ten a second. The
server's share is its CPU time for a frame, times ten frames a second. Needs Linux, Playwright (``pip install
playwright``) and Chromium.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from semdrivers.autofocus import ended_in_order
from semfocus_plugin.lab.studies.live_page import chromium

__all__ = ["main", "measure"]

_HEADS = (
    "frames",
    "minutes",
    "frames / s",
    "server, MiB",
    "browser, MiB",
    "heap, MiB",
    "nodes",
    "server, CPU / frame",
    "at 10 / s",
)
_HURRY = "const wait = setTimeout; window.setTimeout = (done, ms) => wait(done, ms > 100 ? ms : 0);"
"""Takes out of the page what keeps it at ten frames a second."""
_MIB = 1 / 2**20


@contextmanager
def _serving(*arguments: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run a command that prints one line of JSON and serves; yields its process and what it printed."""
    with subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, json.loads(process.stdout.readline())
        finally:
            process.terminate()


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") * _MIB


def _browser_size() -> float:
    """Return the memory of all processes of Chromium that this one started, MiB; shared memory counts once."""
    parents, size = {}, 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(rest.split()[1]), name
    for process, (above, name) in parents.items():
        while above not in (os.getpid(), 0):
            above = parents.get(above, (0, ""))[0]
        if above and name.startswith("chrom"):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            size += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return size / 1024


def measure(frames: int, steps: int = 10, *, hurried: bool = True) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table whenever a share of the frames has been shown; see `_HEADS`.

    ``browser`` is the memory of all processes of Chromium, ``heap`` what the page's script holds, garbage included.
    """
    emulate = "from semdrivers._cli import main; main()", "emulate", "--seed", "1", "--magnification", "2000", "--json"
    serve = "from semfocus_plugin.lab.cli import main; main()", "serve", "--port", "0", "--json"
    with ExitStack() as stack:
        _, emulator = stack.enter_context(_serving(*emulate))
        server, shared = stack.enter_context(_serving(*serve, emulator["url"]))
        page = stack.enter_context(chromium()).new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(0)
        if hurried:
            page.add_init_script(_HURRY)
        page.goto(shared["page"])
        page.locator("#control", has_text="you control").wait_for()
        page.locator("#live").click()
        inside = page.context.new_cdp_session(page)
        inside.send("Performance.enable")
        shown = "() => +(document.querySelector('#frame').dataset.frame ?? 0)"
        stopped = "document.querySelector('#live').ariaPressed === 'false'"
        began, cpu, first = time.perf_counter(), _cpu_seconds(server), page.evaluate(shown)
        for step in range(steps + 1):
            goal = max(frames * step // steps, 100)
            page.wait_for_function(f"goal => ({shown})() >= goal || {stopped}", arg=goal, polling=500)
            if page.evaluate(shown) < goal:
                raise RuntimeError(f"the page stopped scanning: {page.locator('#message').inner_text()}")
            metrics = {each["name"]: each["value"] for each in inside.send("Performance.getMetrics")["metrics"]}
            count, seconds = page.evaluate(shown), time.perf_counter() - began
            spent = (_cpu_seconds(server) - cpu) / (count - first)
            yield (
                f"{count}",
                f"{seconds / 60:.1f}",
                f"{(count - first) / seconds:.1f}",
                f"{_resident(server):.1f}",
                f"{_browser_size():.0f}",
                f"{metrics['JSHeapUsedSize'] * _MIB:.2f}",
                f"{metrics['Nodes']:.0f}",
                f"{1e3 * spent:.1f} ms",
                f"{1e3 * spent:.0f} %",
            )


def main() -> None:
    """Print the table, line by line as it grows."""
    counts = [int(each) for each in sys.argv[1:] if each.isdecimal()]
    print(f"| {' | '.join(_HEADS)} |\n|{' --- |' * len(_HEADS)}", flush=True)
    with ended_in_order():
        for line in measure(counts[0] if counts else 18_000, hurried="--unhurried" not in sys.argv):
            print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
