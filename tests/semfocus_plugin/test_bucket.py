"""Datasets in a bucket of an S3 server: whole files or none, resumed by what is there, the bytes of a folder."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from semdrivers import AutofocusError, InvalidParameterError
from semfocus_plugin.lab.training import datasets
from semfocus_plugin.lab.training.datasets import DatasetConfig

server, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow
SMALL = DatasetConfig(count=20, seed=3, shard_size=8)


@pytest.fixture(scope="module")
def bucket():
    s3 = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = s3.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "of-nobody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("lab")
        yield "s3://lab"
    s3fs.S3FileSystem.clear_instance_cache()
    s3.stop()


def manifest_of(place) -> dict[str, str]:
    return json.loads(datasets.Store(place).read("manifest.json"))["files"]


def test_a_dataset_in_a_bucket_has_the_bytes_of_a_folder_and_is_resumed_by_what_is_there(bucket, tmp_path):
    datasets.build(SMALL, tmp_path, workers=1)
    address = f"{bucket}/frames"
    store, seen = datasets.Store(address), []
    assert store.names() == set()
    with pytest.raises(InvalidParameterError, match="no finished dataset"):
        list(datasets.load(address))
    for name in ("config.json", "shard-00001.npz"):
        store.write(name, (tmp_path / name).read_bytes())
    datasets.build(SMALL, address, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert manifest_of(address) == manifest_of(tmp_path)
    assert store.names() == {"config.json", "manifest.json", *manifest_of(tmp_path)}
    assert datasets.recipe(address) == datasets.recipe(tmp_path)
    for near, far in zip(datasets.load(tmp_path), datasets.load(address), strict=True):
        np.testing.assert_array_equal(near["pixels"], far["pixels"])


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_workers_that_are_killed_leave_whole_files_in_a_bucket(bucket, tmp_path):
    distributed = pytest.importorskip("distributed")
    config = DatasetConfig(count=24, seed=3, shard_size=4)
    datasets.build(config, tmp_path, workers=1)
    address, killed = f"{bucket}/killed", threading.Event()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster:

        def kill(done: int, _: int) -> None:
            if done >= 2 and not killed.is_set():
                killed.set()
                os.kill(cluster.workers[0].pid, signal.SIGKILL)

        datasets.build(config, address, workers=cluster.scheduler_address, progress=kill)
    assert killed.is_set()
    store = datasets.Store(address)
    written = {name: hashlib.sha256(store.read(name)).hexdigest() for name in manifest_of(address)}
    assert written == manifest_of(address) == manifest_of(tmp_path)
    assert store.names() == {"config.json", "manifest.json", *written}


KILLED = """
import os, signal, sys, s3fs
from semfocus_plugin.lab.training import datasets
datasets.Store(sys.argv[1]).write("config.json", open(sys.argv[2], "rb").read())
s3fs.S3FileSystem.mv = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
datasets.build(datasets.DatasetConfig(count=20, seed=3, shard_size=8), sys.argv[1], workers=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_upload_leaves_nothing_in_a_finished_dataset(bucket, tmp_path):
    datasets.build(SMALL, tmp_path, workers=1)
    address = f"{bucket}/interrupted"
    store = datasets.Store(address)
    command = [sys.executable, "-c", KILLED, address, str(tmp_path / "config.json")]
    assert subprocess.run(command, timeout=280).returncode == -signal.SIGKILL
    assert [name.endswith(".partial") for name in sorted(store.names())] == [True, False]
    datasets.build(SMALL, address, workers=1)
    assert store.names() == {"config.json", "manifest.json", *manifest_of(tmp_path)}


def test_storage_that_cannot_be_reached_is_named_with_its_address(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with pytest.raises(AutofocusError, match="s3://nowhere/frames"):
        datasets.build(SMALL, "s3://nowhere/frames", workers=1)
    s3fs.S3FileSystem.clear_instance_cache()
