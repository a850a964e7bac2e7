"""Processes that torchrun starts: the loss of one process, and a run that goes on with fewer of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from semfocus_plugin.lab.training import aenet, datasets
from semfocus_plugin.lab.training.datasets import DatasetConfig
from semfocus_plugin.lab.training.processes import Processes

CPU = torch.device("cpu")


@pytest.mark.parametrize("frames", [7, 8, 90])
def test_shares_make_up_a_step_and_weigh_as_much_as_it(frames):
    processes = [Processes(rank, 3, CPU) for rank in range(3)]
    index = np.arange(frames)
    np.testing.assert_array_equal(np.sort(np.concatenate([index[each.share] for each in processes])), index)
    losses = np.random.default_rng(1).random(frames)
    weighted = [each.weight(frames) * losses[each.share].mean() for each in processes]
    assert np.mean(weighted) == pytest.approx(losses.mean())


def test_a_share_of_a_batch_is_what_the_whole_batch_shows(tmp_path):
    datasets.build(DatasetConfig(count=12, seed=3, shard_size=6), tmp_path, workers=1)
    frames = aenet.read_frames((str(tmp_path),))
    index = np.array([1, 4, 6, 7, 11])
    whole, ellipses = frames.drawn(index, np.random.default_rng(2), CPU, 64)
    part, some = frames.drawn(index, np.random.default_rng(2), CPU, 64, share=slice(1, None, 2))
    torch.testing.assert_close(part, whole[1::2])
    torch.testing.assert_close(some, ellipses[1::2])


def trained(data, folder, processes: int, *options: str) -> list[float]:
    """Train with so many processes and return the losses of the epochs."""
    code = "from semfocus_plugin.lab.cli import main; main()"
    words = ["train", "aenet", str(data), "-o", str(folder), "--batch", "16", "--window", "64", *options]
    script = folder.parent / "semfocus.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, str(script), *words] if processes > 1 else [sys.executable, str(script), *words]
    subprocess.run(command, check=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_learn_as_one_and_one_goes_on_where_two_stopped(tmp_path):
    datasets.build(DatasetConfig(count=192, seed=5, shard_size=32), tmp_path / "data", workers=1)
    one = trained(tmp_path / "data", tmp_path / "one", 1, "--epochs", "4", "--learning-rate", "0.001")
    two = trained(tmp_path / "data", tmp_path / "two", 2, "--epochs", "4", "--learning-rate", "0.001")
    np.testing.assert_allclose(two, one, rtol=0.15)
    saved = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 3
    shutil.copytree(tmp_path / "two", tmp_path / "both")
    more = ("--epochs", "6", "--learning-rate", "0.001", "--resume")
    alone = trained(tmp_path / "data", tmp_path / "two", 1, *more)
    both = trained(tmp_path / "data", tmp_path / "both", 2, *more)
    assert alone[:4] == both[:4] == two
    np.testing.assert_allclose(alone[4:], both[4:], rtol=0.15)
    assert alone[4] < one[0]
