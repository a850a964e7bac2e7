"""One run of the campaign: its link, its faults, what happened to it, and what of that is forbidden."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from firmware_protocol.messages import Parameter
from semdrivers.em30 import ControlLink, open_tcp
from semdrivers.emulator import Emulator
from semdrivers.emulator.wires import FAULTS
from semdrivers.errors import SemDriversError
from semfocus_plugin.lab.campaign._lying_line import LyingLine
from semfocus_plugin.lab.campaign._script import TRAVEL, Report, focus_and_take_a_picture, in_a_process

__all__ = ["FORBIDDEN", "LINKS", "Run", "carry_out", "faults_of", "table"]

LINKS = ("tcp", "serial", "bridge", "stopped", "killed", "starved", "lying")
"""What a run goes through: loopback TCP with USB in this process; a pseudo-terminal as serial line; TCP and the USB
bridge; TCP, and another thread stops the microscope; a process of its own over TCP and the bridge, which gets SIGKILL,
SIGTERM, SIGINT, or SIGSTOP and later SIGCONT, at a random moment; the same, which gets little of the CPU; TCP by way
of a peer that replaces one answer in twelve by a wrong one."""
if sys.platform == "win32":
    LINKS = ("tcp", "bridge", "stopped", "lying")

FORBIDDEN = {
    "false focus": "a focus beyond 2 depths of field was reported",
    "wrong picture": "a picture has other settings, or another scan, than the instrument had",
    "left elsewhere": "lens or magnification is neither where it was nor where the result says, and no error says so",
    "limits passed": "the lens was beyond the limits of the run",
    "unnamed error": "an error that is none of the product's",
    "late": "the run took longer than its deadline",
    "leaked": "a thread or a descriptor is left",
    "beam on": "the beam is on, and no client is in control",
    "locked out": "the next client does not get control",
}
"""What must never happen."""

_DEADLINE = 180.0
"""Seconds on a busy computer; every wait of the driver ends within 60."""
_GRACE = 5.0
_KNOB = 0.1
"""mm by which somebody turns the lens under the fault `knob-turned`, at the limit of the run beyond it."""
_MOST_EVENTS = 12
"""Events of the instrument (settings, ends of scans) before a signal, at most: about as many as a run has."""
_STARVED = 20.0
"""Seconds; after that a starved process gets all that it can have."""


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
        As `Emulator` takes them; behind it the signal of a killed run.
    outcome : str
        Status of the result, or name of the error or signal.
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


def faults_of(number: int, seed: int = 0) -> str:
    """Return the faults of a run: each alone, then in pairs, then up to four at random."""
    names, random = sorted(FAULTS), np.random.default_rng([number, 1, seed])
    pairs = list(combinations(names, 2))
    if number < len(names):
        chosen = [names[number]]
    elif number < len(names) + len(pairs):
        chosen = list(pairs[number - len(names)])
    else:
        chosen = [str(name) for name in random.choice(names, random.integers(0, 5), replace=False)]
    return ",".join(f"{name}@{random.integers(1, 8)}" for name in chosen)


def carry_out(number: int, seed: int = 0) -> Run:
    """Carry out a run.

    Parameters
    ----------
    number : int
        Which one; 0 for the first.
    seed : int
        Random seed of the campaign; fixes specimens, magnifications, moments and lies of all its runs.
    """
    _warm_up()
    return _carried_out(number, seed)


def ignore_interrupts() -> None:
    """Take no notice of Ctrl-C from here on, in a process that carries out runs for another."""
    # Not SIG_IGN: the scripts that this process starts would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)


@cache
def _warm_up() -> None:
    """Have everything made that is made once a process (threads of the networks, handles of USB): that is no leak."""
    for first in range(len(LINKS)):
        if LINKS[first] in ("tcp", "serial", "bridge", "killed"):
            _carried_out(first, 0)


def _carried_out(number: int, seed: int) -> Run:
    random = np.random.default_rng([number, 2, seed])
    link, faults = LINKS[number % len(LINKS)], faults_of(number, seed)
    before, began = _resources(), time.monotonic()
    specimen = str(random.choice(["tin-balls", "tem-grid", "gold-nanoparticles"]))
    specimen_seed, magnification = int(random.integers(1_000_000)), float(round(np.exp(random.uniform(7, 9.5))))
    emulator = Emulator(
        specimen, magnification=magnification, seed=specimen_seed, usb_port=0, serial=link == "serial", faults=faults
    )
    with emulator, ExitStack() as stack:
        url = emulator.remote_url if link == "bridge" else emulator.serial_url if link == "serial" else emulator.url
        port, usb = urlsplit(emulator.url).port or 0, urlsplit(emulator.url).query
        if link == "lying":
            url = f"em30://127.0.0.1:{stack.enter_context(LyingLine(port, (number, seed))).port}?{usb}"
        watched = _Watched(emulator, "knob-turned" in faults)
        given = ""
        if link in ("killed", "starved"):
            given = watched.in_a_process(link, random)
        else:
            focus_and_take_a_picture(url, watched.reports.append, 1.0 if link == "stopped" else None)
        if given:
            faults = f"{faults} {given}".strip()
        outcome = watched.judged(given)
        if not _gives_control(port):
            watched.forbidden.add("locked out")
    seconds = time.monotonic() - began
    if seconds > _DEADLINE:
        watched.forbidden.add("late")
    if _grown(before):
        watched.forbidden.add("leaked")
    return Run(number, link, faults, outcome, round(seconds, 2), tuple(sorted(watched.forbidden)))


class _Watched:
    """An instrument that is watched during a run, and what the script reports."""

    def __init__(self, emulator: Emulator, knob_turned: bool) -> None:
        self.reports: list[Report] = []
        self.forbidden: set[str] = set()
        self._emulator = emulator
        self._knob_turned = knob_turned
        """Whether somebody turned a knob: then the lens may be anywhere."""
        self._start = self._now()
        self._places = [self._start[0]]
        emulator.instrument.listen(lambda _: self._places.append(self._now()[0]))

    def _now(self) -> tuple[float, float]:
        value = self._emulator.instrument.value
        return value(Parameter.WORKING_DISTANCE), value(Parameter.MAGNIFICATION)

    def in_a_process(self, link: str, random: np.random.Generator) -> str:
        """Run the script in a process of its own; return the name of the signal that it got, if any."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["semfocus_plugin.lab.campaign._script"])
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=in_a_process, args=(self._emulator.remote_url, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            given = self._kill(process, ours, random) if link == "killed" else _starve(process, random)
            process.join(_DEADLINE)
            if process.is_alive():
                self.forbidden.add("late")
        finally:  # also where the campaign itself is interrupted
            process.kill()
            process.join()
        self._read(ours)
        ours.close()
        process.close()
        return given

    def _read(self, connection: Connection) -> None:
        with suppress(EOFError, OSError):  # it may have been killed in the middle of a report
            while connection.poll():
                self.reports.append(connection.recv())

    def _kill(self, process: Any, connection: Connection, random: np.random.Generator) -> str:
        """Send a signal at a random moment; return its name, or nothing where the script was faster."""
        names = ["SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP"]
        name, events, pause = str(random.choice(names)), random.integers(_MOST_EVENTS), random.uniform(0, 0.2)
        end = time.monotonic() + _DEADLINE
        while len(self._places) <= events and process.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        process.join(pause)
        if not process.is_alive():
            return ""
        _send(process, getattr(signal, name))
        if name == "SIGSTOP":
            lease = self._emulator.instrument.profile.lease_time
            stopped = random.uniform(0.2, 2 * lease)
            time.sleep(stopped)
            self._read(connection)
            if stopped > 1.5 * lease and self._beam_stays_on(_GRACE):
                self.forbidden.add("beam on")
            _send(process, signal.SIGCONT)
        return name

    def judged(self, given: str) -> str:
        """Compare what was reported with the instrument; return how the run ended."""
        reports = {report[0]: report[1:] for report in self.reports}
        instrument, truth = self._emulator.instrument, self._emulator.truth
        place, outcome, text = self._start[0], given or "error", ""
        if "result" in reports:
            outcome, place = reports["result"]
        if "error" in reports:
            name, named, text = reports["error"]
            outcome = outcome if outcome == "focused" else name
            if not (named or given in ("SIGINT", "SIGTERM")):
                self.forbidden.add("unnamed error")
                outcome = f"{name}: {text}"
        if not (reports or given):
            self.forbidden.add("unnamed error")  # the script never ran: nothing was shown
        if outcome == "focused" and abs(place - truth.working_distance) > 2 * truth.depth_of_field:
            self.forbidden.add("false focus")
        if "picture" in reports and not self._knob_turned:
            distance, magnification, frame = reports["picture"]
            if (distance, magnification) != (place, self._start[1]) or frame != instrument.status().next_frame - 1:
                self.forbidden.add("wrong picture")
        now = self._now()
        allowed = [self._start, (place, self._start[1])]
        if given and "result" not in reports and abs(now[0] - truth.working_distance) < 2 * truth.depth_of_field:
            allowed.append((now[0], self._start[1]))  # it focused, and did not live to report that
        if given != "SIGKILL" and not self._knob_turned and now not in allowed and "could not be put back" not in text:
            self.forbidden.add("left elsewhere")
        travel = TRAVEL + _KNOB if self._knob_turned else TRAVEL
        if max(abs(each - self._start[0]) for each in self._places) > travel + 1e-6:
            self.forbidden.add("limits passed")
        if self._beam_stays_on(instrument.profile.lease_time + _GRACE):
            self.forbidden.add("beam on")
        return str(outcome)

    def _beam_stays_on(self, seconds: float) -> bool:
        """Whether a script that was interrupted leaves the beam on; the instrument has so long to notice."""
        names = {report[0] for report in self.reports}
        if "focusing" not in names or "leaving" in names:
            return False  # it never had control, or it left in order
        end = time.monotonic() + seconds
        while self._emulator.instrument.status().beam_on:
            if time.monotonic() > end:
                return True
            time.sleep(0.05)
        return False


def _send(process: Any, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(process.pid, number)


def _starve(process: Any, random: np.random.Generator) -> str:
    """Stop a process most of the time, for seconds."""
    end = time.monotonic() + _STARVED
    while process.is_alive() and time.monotonic() < end:
        _send(process, signal.SIGSTOP)
        time.sleep(random.uniform(0.02, 0.3))
        _send(process, signal.SIGCONT)
        process.join(random.uniform(0.005, 0.05))
    return ""


def _gives_control(port: int) -> bool:
    """Whether another client gets control; some faults may still be due, so it tries again."""
    end = time.monotonic() + 2 * _GRACE
    while True:
        try:
            with ControlLink(open_tcp("127.0.0.1", port), client_name="the next client", name="EM-30") as link:
                return link.hello.owner
        except SemDriversError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)


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
