"""Every target takes a thousand inputs; hours of it are for `python tests/fuzz/targets.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from firmware_protocol.control import Envelope, encode
from firmware_protocol.messages import KeepAlive

SOURCE = Path(__file__).with_name("targets.py")
NAMES = re.findall(r'^    "(\w+)": ', SOURCE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_target_ends_without_an_unnamed_error(name, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "message").write_bytes(encode(Envelope.request(1, KeepAlive())))
    (corpus / "table").write_bytes(b"file,magnification\na.tif,5000\n")
    tifffile.imwrite(corpus / "picture", np.arange(48, dtype=np.uint8).reshape(6, 8), description="ImageJ=1")
    ended = subprocess.run(
        [sys.executable, str(SOURCE), name, str(corpus), "-runs=1000", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "Done 1000 runs" in ended.stderr
