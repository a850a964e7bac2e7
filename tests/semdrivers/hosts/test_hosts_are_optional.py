"""A host that is not installed is not missed, and one that is installed is loaded by its own module alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HOSTS = {"pymmcore": ("pymmcore_plus", "useq"), "bluesky": ("bluesky",), "qcodes": ("qcodes",), "fibsem": ("fibsem",)}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_starting_up_loads_no_host():
    code = "import semdrivers, semdrivers.hosts, sys; semdrivers.hosts.focused; print('\\n'.join(sys.modules))"
    loaded = set(run_python(code).stdout.split())
    assert "semdrivers.hosts._scripts" in loaded
    assert not loaded & {name for names in HOSTS.values() for name in names}


def test_each_host_is_imported_by_its_own_modules_alone():
    for path in sorted(ROOT.glob("semdrivers/**/*.py")):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        modules = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        modules |= {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module and not node.level}
        for host, names in HOSTS.items():
            if path.parent.name == "hosts" and path.stem.lstrip("_") in (host, f"{host}_devices", f"{host}_adapters"):
                continue
            assert not {module.partition(".")[0] for module in modules} & set(names), f"{path} imports {host}"
            assert f"semdrivers.hosts.{host}" not in modules, f"{path} imports the adapter of {host}"


@pytest.mark.parametrize("host", HOSTS)
def test_an_absent_host_names_its_extra(host):
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HOSTS[host])
    done = run_python(f"import sys; {blocked}; import semdrivers.hosts.{host}")
    assert done.returncode == 1
    assert f"pip install '.[{host}]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("host", HOSTS)
def test_each_host_has_an_extra_with_a_version_from_and_to(host):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert all(re.fullmatch(r"[a-z-]+>=[\d.]+,<[\d.]+", pin) for pin in extras[host])
