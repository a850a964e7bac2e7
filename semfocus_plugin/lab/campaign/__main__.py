"""The command line of the campaign."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from semdrivers.files import parse_json
from semfocus_plugin.lab import campaign
from semfocus_plugin.lab.campaign._runs import ignore_interrupts


def _earlier(path: Path) -> Iterator[campaign.Run]:
    for line in path.read_text(encoding="utf-8").splitlines():
        values = parse_json(line)
        yield campaign.Run(**{**values, "forbidden": tuple(values["forbidden"])})


@contextmanager
def _requests_to_end() -> Iterator[list[int]]:
    """Gather SIGTERM and Ctrl-C: the first is for the end of the run under way, a second ends it at once."""
    requests: list[int] = []

    def end(number: int, _: object) -> None:
        requests.append(number)
        if len(requests) > 1:
            raise SystemExit(128 + number)
        os.write(2, b"ending after the run under way, within minutes; --resume repeats it; a second signal ends now\n")

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _carried_out(carry_out: Callable[[int], campaign.Run], numbers: Sequence[int], jobs: int) -> Iterator[campaign.Run]:
    """Yield runs as they end; where they go side by side, whoever leaves this waits for those under way."""
    if jobs == 1:
        yield from map(carry_out, numbers)
        return
    # New processes, for they start others: one that was forked, or is a daemon, cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, ignore_interrupts) as pool:
        try:
            for run in as_completed([pool.submit(carry_out, number) for number in numbers]):
                yield run.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; returns 1 when something forbidden happened, and 128 + n where signal n ended it before."""
    parser = argparse.ArgumentParser(prog="python -m semfocus_plugin.lab.campaign", description=campaign.__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in all, the earlier ones included")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another campaign")
    parser.add_argument("--out", type=Path, default=Path("campaign.jsonl"), help="one line a run")
    parser.add_argument("--resume", action="store_true", help="go on with the file that is there")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; a run waits most of its time")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be 1 or more, not {options.jobs}")
    if options.out.exists() and not options.resume:
        parser.error(f"{options.out} is there: add --resume to go on with it, or name another file")
    runs = list(_earlier(options.out)) if options.out.exists() else []
    done = {run.number for run in runs}
    numbers = [number for number in range(options.runs) if number not in done]
    with _requests_to_end() as requests, options.out.open("a", encoding="utf-8") as file:
        for run in _carried_out(partial(campaign.carry_out, seed=options.seed), numbers, options.jobs):
            if requests:  # the signal may have reached the processes of the run too: it counts for nothing
                return 128 + requests[0]
            runs.append(run)
            print(json.dumps(asdict(run)), file=file, flush=True)
            if run.forbidden:
                print(run, file=sys.stderr)
    print(campaign.table(runs))
    return int(any(run.forbidden for run in runs))


if __name__ == "__main__":
    sys.exit(main())
