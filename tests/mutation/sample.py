"""Mutants of a room, drawn at random, each against the tests of that room: ``python tests/mutation/sample.py codecs``.

Cosmic Ray changes one thing in the source, such as ``<`` to ``<=``; tests that still pass miss something. It works on a copy
of the checkout in a temporary folder. Needs ``pip install -e '.[mutation]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

ROOMS = {
    "codecs": (
        ["firmware_protocol"],
        "tests/firmware_protocol/test_borders.py tests/firmware_protocol/test_written_specification.py "
        "tests/firmware_protocol/test_control_vectors.py tests/firmware_protocol/test_stream_vectors.py "
        "tests/semdrivers/tescan/test_sharksem_codec.py tests/firmware_protocol",
    ),
    "put-back": (
        ["semdrivers/autofocus.py", "semdrivers/microscope.py"],
        "tests/semdrivers/test_shared_ways.py tests/semdrivers/test_where_it_is_sent.py "
        "tests/semdrivers/test_autofocus_contract.py tests/semdrivers/test_optional_parts.py "
        "tests/semdrivers/test_scan_modes.py tests/semdrivers/test_focus_map.py "
        "tests/semfocus_plugin/test_where_to_focus.py",
    ),
    "limits": (
        [f"semfocus_plugin/run/{name}.py" for name in ("_limits", "_dose", "_brightness")],
        "tests/semfocus_plugin/test_probe_limits.py tests/semfocus_plugin/test_exposure_first.py "
        "tests/semfocus_plugin/test_envelope.py",
    ),
    "run": (
        ["semfocus_plugin/run"],
        "tests/semfocus_plugin/test_frame_checks.py tests/semfocus_plugin/test_narrow_limits.py "
        "tests/semfocus_plugin/test_envelope.py tests/semfocus_plugin/test_exposure_first.py "
        "tests/semfocus_plugin/test_spoiled_frames.py tests/semfocus_plugin/test_probe_limits.py "
        "tests/semfocus_plugin/test_drift.py",
    ),
}
"""What is changed, and the tests that should notice, the quick ones first: most changes fail there."""
_ROOT = Path(__file__).parents[2]
_CONFIG = """[cosmic-ray]
module-path = {source}
timeout = {timeout}
excluded-modules = ["firmware_protocol/profile.py"]  # the emulated instrument in numbers: it codes nothing
test-command = "{python} -m pytest -x -q -n 0 -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
"""


def main() -> None:
    """Draw mutants, run the tests on each, print those that survived and the share that was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests; longer is killed")
    options = parser.parse_args()
    source, tests = ROOMS[options.room]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        shutil.copytree(_ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "site", "dist"))
        values = {"source": json.dumps(source), "tests": tests, "python": sys.executable, "timeout": options.timeout}
        (copy / "mutation.toml").write_text(_CONFIG.format(**values), encoding="utf-8")
        session = copy / "mutation.sqlite"

        def cosmic_ray(command: str, *arguments: str) -> None:
            subprocess.run(
                [sys.executable, "-m", "cosmic_ray.cli", command, "mutation.toml", *arguments],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy)},
                check=True,
            )

        cosmic_ray("baseline")  # tests that fail by themselves would kill every mutant
        cosmic_ray("init", str(session))
        with use_db(str(session), WorkDB.Mode.open) as work:
            items = sorted((item for item in work.pending_work_items if not _in_a_type(item)), key=_place)
            chosen = random.Random(options.seed).sample(items, min(options.mutants, len(items)))
            for job in {item.job_id for item in work.pending_work_items} - {item.job_id for item in chosen}:
                work.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
        cosmic_ray("exec", str(session))
        with use_db(str(session), WorkDB.Mode.open) as work:
            outcomes = {job: result.test_outcome for job, result in work.results}
            diffs = {job: result.diff for job, result in work.results}
    survivors = [item for item in chosen if outcomes[item.job_id] is TestOutcome.SURVIVED]
    for item in survivors:
        print(diffs[item.job_id], end="\n\n")
    print(f"{options.room}: {len(chosen) - len(survivors)} of {len(chosen)} mutants killed, of {len(items)}")


def _in_a_type(item: Any) -> bool:
    """Whether a mutant is one of ``int | None`` in an annotation, which changes nothing."""
    return str(item.mutations[0].operator_name).startswith("core/ReplaceBinaryOperator_BitOr")


def _place(item: Any) -> tuple[object, ...]:
    (mutation,) = item.mutations
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


if __name__ == "__main__":
    main()
