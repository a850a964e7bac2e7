"""What the live page and its server take while frames come for half an hour: memory, and the server's share of a core.

::

    python -m semfocus_plugin.lab.studies.page_endurance 18000

Emulator, server and Chromium are processes of their own. The page scans as fast as the three allow, so that the frames
of half an hour at ten a second take less where there are cores enough; `--unhurried` leaves it at ten a second. The
server's share is its CPU time for a frame, times ten frames a second. Needs Linux and Chromium. Chromium is asked over
its debugging pipe and not by Playwright, which has Chromium keep the content of all answers, up to 100 MiB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from semdrivers.autofocus import ended_in_order

__all__ = ["main", "measure"]

_HEADS = (
    "frames",
    "minutes",
    "frames / s",
    "server, MiB",
    "browser, MiB",
    "pages, MiB",
    "heap, MiB",
    "nodes",
    "server, CPU / frame",
    "at 10 / s",
)
_HURRY = "const wait = setTimeout; window.setTimeout = (done, ms) => wait(done, ms > 100 ? ms : 0);"
"""Takes out of the page what keeps it at ten frames a second."""
_OWN = ("Pss_Anon:", "Pss_Shmem:")
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


class _Chromium:
    """A headless Chromium with one page, asked over its debugging pipe."""

    def __init__(self, profile: str, url: str, script: str) -> None:
        name = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if name is None:
            raise FileNotFoundError("Chromium is not installed")
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        flags = f"--headless --no-sandbox --no-first-run --window-size=1280,800 --user-data-dir={profile}".split()
        line = f'exec 3<&{theirs} 4>&{answers}; exec "$@"', "sh", name, "--remote-debugging-pipe", *flags, "about:blank"
        self.process = subprocess.Popen(["sh", "-c", *line], pass_fds=(theirs, answers), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(answers)
        self._rest, self._count, self._session = b"", 0, {}
        page = next(each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self.ask("Performance.enable")
        self.ask("Page.enable")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=script)
        self.ask("Page.navigate", url=url)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what Chromium answers to a command of its DevTools protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._in, 1 << 16)
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._count:
                result: dict[str, Any] = answer["result"]
                return result

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression in the page is true."""
        while not self.value(script):
            time.sleep(0.2)

    def metrics(self) -> dict[str, float]:
        """Return what Chromium counts in the page, garbage collected before."""
        self.ask("HeapProfiler.collectGarbage")
        return {each["name"]: each["value"] for each in self.ask("Performance.getMetrics")["metrics"]}

    def sizes(self) -> tuple[float, float]:
        """Return the memory of all its processes, and of those that show pages, MiB.

        Without the pages of its program file, which other browsers may share; what its processes share counts once.
        """
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        total = pages = 0.0
        for process in parents:
            above = process
            while above not in (self.process.pid, 0):
                above = parents.get(above, 0)
            if above:
                folder = Path(f"/proc/{process}")
                lines = (folder / "smaps_rollup").read_text().splitlines()
                size = sum(int(line.split()[1]) for line in lines if line.startswith(_OWN)) / 1024
                total += size
                pages += size * (b"--type=renderer" in (folder / "cmdline").read_bytes())
        return total, pages


@contextmanager
def _chromium(url: str, hurried: bool) -> Iterator[_Chromium]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = _Chromium(profile, url, _HURRY if hurried else "")
        try:
            yield browser
        finally:
            browser.process.terminate()
            browser.process.wait()


def measure(frames: int, steps: int = 10, *, hurried: bool = True) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table whenever a share of the frames has been shown; see `_HEADS`.

    ``browser`` is the memory of all processes of Chromium, ``pages`` that of those which show pages, ``heap`` what the
    page's script holds, and ``nodes`` the elements of its document; garbage is collected before.
    """
    emulate = "from semdrivers._cli import main; main()", "emulate", "--seed", "1", "--magnification", "2000", "--json"
    serve = "from semfocus_plugin.lab.cli import main; main()", "serve", "--port", "0", "--json"
    with ExitStack() as stack:
        _, emulator = stack.enter_context(_serving(*emulate))
        server, shared = stack.enter_context(_serving(*serve, emulator["url"]))
        page = stack.enter_context(_chromium(shared["page"], hurried))
        page.until("document.querySelector('#control')?.textContent.includes('you control')")
        page.value("document.querySelector('#live').click()")
        shown = "+(document.querySelector('#frame').dataset.frame ?? 0)"
        stopped = "document.querySelector('#live').ariaPressed === 'false'"
        began, cpu, first = time.perf_counter(), _cpu_seconds(server), page.value(shown)
        for step in range(steps + 1):
            goal = max(frames * step // steps, 100)
            page.until(f"{shown} >= {goal} || {stopped}")
            if page.value(shown) < goal:
                said = page.value("document.querySelector('#message').textContent")
                raise RuntimeError(f"the page stopped scanning: {said}")
            metrics = page.metrics()
            count, seconds = page.value(shown), time.perf_counter() - began
            spent = (_cpu_seconds(server) - cpu) / (count - first)
            yield (
                f"{count}",
                f"{seconds / 60:.1f}",
                f"{(count - first) / seconds:.1f}",
                f"{_resident(server):.1f}",
                *(f"{size:.0f}" for size in page.sizes()),
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
