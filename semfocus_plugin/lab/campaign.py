"""Runs under faults, and what must never happen in one: ``python -m semfocus_plugin.lab.campaign --runs 300``.

Every fault of the emulator alone, then in pairs, then at random, in turn over loopback TCP, a serial line, the USB
bridge and with somebody who stops the instrument in the middle. A run focuses the instrument and takes a picture. Focus
and picture are compared with the sample, and with what the instrument says of itself. A run is known by its number: the
same number is the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

import semdrivers
from firmware_protocol.messages import Parameter
from semdrivers.emulator import Emulator
from semdrivers.emulator.wires import FAULTS
from semdrivers.errors import SemDriversError
from semdrivers.files import parse_json
from semdrivers.microscope import HasStop

__all__ = ["FORBIDDEN", "LINKS", "Run", "carry_out", "faults_of", "main", "table"]

LINKS = ("tcp", "serial", "bridge", "stopped")
"""Ways to the instrument; in the last another client stops it."""
if sys.platform == "win32":
    LINKS = ("tcp", "bridge", "stopped")

FORBIDDEN = {
    "false focus": "a focus beyond 2 depths of field was reported",
    "wrong picture": "a picture has other settings, or another scan, than the instrument had",
    "left elsewhere": "lens or magnification is neither where it was nor where the result says, and no error says so",
    "limits passed": "the lens was beyond the limits of the run",
    "unnamed error": "an error that is none of the product's",
    "late": "the run took longer than its deadline",
    "leaked": "a thread or a descriptor is left",
    "beam on": "the beam is on, and no client is in control",
}
"""What must never happen."""

_DEADLINE = 180.0
"""Seconds on a busy computer; every wait of the driver ends within 60."""
_TRAVEL = 1.0
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a campaign, and how it ended.

    Parameters
    ----------
    number : int
        Which one.
    link : str
        One of `LINKS`.
    faults : str
        As `Emulator` takes them.
    outcome : str
        Status of the result, or name of the error.
    seconds : float
        On this computer's clock.
    forbidden : tuple of str
        Keys of `FORBIDDEN` that happened.
    """

    number: int
    link: str
    faults: str
    outcome: str
    seconds: float
    forbidden: tuple[str, ...]


def faults_of(number: int) -> str:
    """Return the faults of a run: each alone, then in pairs, then up to four at random."""
    names, random = sorted(FAULTS), np.random.default_rng([number, 1])
    pairs = list(combinations(names, 2))
    if number < len(names):
        chosen = [names[number]]
    elif number < len(names) + len(pairs):
        chosen = list(pairs[number - len(names)])
    else:
        chosen = [str(name) for name in random.choice(names, random.integers(0, 5), replace=False)]
    return ",".join(f"{name}@{random.integers(1, 8)}" for name in chosen)


def carry_out(number: int) -> Run:
    """Carry out a run.

    Parameters
    ----------
    number : int
        Which one; 0 for the first.
    """
    random = np.random.default_rng([number, 2])
    link, faults = LINKS[number % len(LINKS)], faults_of(number)
    before, began = _resources(), time.monotonic()
    forbidden: set[str] = set()
    specimen = str(random.choice(["tin-balls", "tem-grid", "gold-nanoparticles"]))
    seed, magnification = int(random.integers(1_000_000)), float(round(np.exp(random.uniform(7, 9.5))))
    emulator = Emulator(
        specimen, magnification=magnification, seed=seed, usb_port=0, serial=link == "serial", faults=faults
    )
    with emulator:
        url = {"tcp": emulator.url, "stopped": emulator.url, "bridge": emulator.remote_url}.get(link)
        outcome = _focused(emulator, faults, url or emulator.serial_url, link == "stopped", forbidden)
        end = time.monotonic() + emulator.instrument.profile.lease_time + _GRACE
        while outcome != "done" and emulator.instrument.status().owner and time.monotonic() < end:
            time.sleep(0.05)
        status = emulator.instrument.status()
        if outcome != "focused" and outcome != "refused" and not status.owner and status.beam_on:
            forbidden.add("beam on")
    seconds = time.monotonic() - began
    if seconds > _DEADLINE:
        forbidden.add("late")
    if _grown(before):
        forbidden.add("leaked")
    return Run(number, link, faults, outcome, round(seconds, 2), tuple(sorted(forbidden)))


def _focused(emulator: Emulator, faults: str, url: str, stopped: bool, forbidden: set[str]) -> str:
    """Focus, take a picture; return how it ended. Where the operator turns a knob, the lens may be anywhere."""
    instrument = emulator.instrument
    start = instrument.value(Parameter.WORKING_DISTANCE), instrument.value(Parameter.MAGNIFICATION)
    places = [start[0]]
    instrument.listen(lambda _: places.append(instrument.value(Parameter.WORKING_DISTANCE)))
    reported, turned = "", "knob-turned" in faults
    outcome = "error"
    place = start[0]
    try:
        with semdrivers.connect(url) as microscope:
            if stopped:
                other = threading.Timer(1.0, _stop, [microscope])
                other.start()
            try:
                result = semdrivers.autofocus(microscope, max_travel=_TRAVEL, learn_aperture=False)
                outcome, place = result.status, result.working_distance
                truth = emulator.truth
                if result.focused and abs(instrument.value(Parameter.WORKING_DISTANCE) - truth.working_distance) > (
                    2 * truth.depth_of_field
                ):
                    forbidden.add("false focus")
                image = microscope.acquire()
                if not turned and (image.working_distance != place or image.magnification != start[1]):
                    forbidden.add("wrong picture")
            finally:
                if stopped:
                    other.join()
    except SemDriversError as error:
        reported = "\n".join([str(error), *getattr(error, "__notes__", ())])
        outcome = outcome if outcome == "focused" else type(error).__name__
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        forbidden.add("unnamed error")
    now = instrument.value(Parameter.WORKING_DISTANCE), instrument.value(Parameter.MAGNIFICATION)
    if not turned and now not in ((place, start[1]), start) and "could not be put back" not in reported:
        forbidden.add("left elsewhere")
    if max(abs(each - start[0]) for each in places) > _TRAVEL + 1e-6:
        forbidden.add("limits passed")
    return outcome


def _stop(microscope: object) -> None:
    with suppress(SemDriversError):
        if isinstance(microscope, HasStop):
            microscope.stop()


def _resources() -> tuple[int, int]:
    folder = Path("/proc/self/fd")
    return threading.active_count(), len(os.listdir(folder)) if folder.is_dir() else 0


def _grown(before: tuple[int, int]) -> bool:
    """Whether threads or descriptors are left; those that are ending get some seconds."""
    end = time.monotonic() + _GRACE
    while any(now > then for now, then in zip(_resources(), before, strict=True)):
        if time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False


def table(runs: list[Run]) -> str:
    """Return a campaign as a table in Markdown: what was forbidden, by link."""
    links = [link for link in LINKS if any(run.link == link for run in runs)]
    lines = [f"| forbidden | {' | '.join(links)} |", f"| --- |{' ---: |' * len(links)}"]
    for name in FORBIDDEN:
        counts = (sum(name in run.forbidden for run in runs if run.link == link) for link in links)
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    lines.append(f"| runs | {' | '.join(str(sum(run.link == link for run in runs)) for link in links)} |")
    outcomes = Counter(run.outcome for run in runs)
    return "\n".join([*lines, "", "Ended: " + ", ".join(f"{name} {count}" for name, count in outcomes.most_common())])


def _earlier(path: Path) -> Iterator[Run]:
    for line in path.read_text(encoding="utf-8").splitlines():
        values = parse_json(line)
        yield Run(**{**values, "forbidden": tuple(values["forbidden"])})


def main() -> int:
    """Run a campaign; returns 1 when something forbidden happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in all, the earlier ones included")
    parser.add_argument("--out", type=Path, default=Path("campaign.jsonl"), help="one line a run")
    parser.add_argument("--resume", action="store_true", help="go on with the file that is there")
    options = parser.parse_args()
    if options.out.exists() and not options.resume:
        parser.error(f"{options.out} is there: add --resume to go on with it, or name another file")
    runs = list(_earlier(options.out)) if options.out.exists() else []
    done = {run.number for run in runs}
    carry_out(0)  # what is made once a process is no leak
    with options.out.open("a", encoding="utf-8") as file:
        for number in (each for each in range(options.runs) if each not in done):
            run = carry_out(number)
            runs.append(run)
            print(json.dumps(asdict(run)), file=file, flush=True)
            if run.forbidden:
                print(run, file=sys.stderr)
    print(table(runs))
    return int(any(run.forbidden for run in runs))


if __name__ == "__main__":
    sys.exit(main())
