"""The command line of the campaign."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from semdrivers.autofocus import ended_in_order
from semdrivers.files import parse_json
from semfocus_plugin.lab import campaign


def _earlier(path: Path) -> Iterator[campaign.Run]:
    for line in path.read_text(encoding="utf-8").splitlines():
        values = parse_json(line)
        yield campaign.Run(**{**values, "forbidden": tuple(values["forbidden"])})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; returns 1 when something forbidden happened. SIGTERM ends it as Ctrl-C does, to be resumed."""
    parser = argparse.ArgumentParser(prog="python -m semfocus_plugin.lab.campaign", description=campaign.__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in all, the earlier ones included")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another campaign")
    parser.add_argument("--out", type=Path, default=Path("campaign.jsonl"), help="one line a run")
    parser.add_argument("--resume", action="store_true", help="go on with the file that is there")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.resume:
        parser.error(f"{options.out} is there: add --resume to go on with it, or name another file")
    runs = list(_earlier(options.out)) if options.out.exists() else []
    done = {run.number for run in runs}
    numbers = [number for number in range(options.runs) if number not in done]
    with ended_in_order(), options.out.open("a", encoding="utf-8") as file:
        for number in numbers:
            run = campaign.carry_out(number, options.seed)
            runs.append(run)
            print(json.dumps(asdict(run)), file=file, flush=True)
            if run.forbidden:
                print(run, file=sys.stderr)
    print(campaign.table(runs))
    return int(any(run.forbidden for run in runs))


if __name__ == "__main__":
    sys.exit(main())
