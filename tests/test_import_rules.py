"""Who may import whom: the rules of the house, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("firmware_protocol", "semdrivers", "semfocus_plugin")
WIRE_MODULES = {"struct", "zlib", "binascii"}
HEAVY = (
    "usb",
    "serial",
    "tifffile",
    "matplotlib",
    "onnxruntime",
    "PIL",
    "torch",
    "onnx",
    "scipy",
    "typer",
    "rich",
)
HEAVY_OWN = ("pluggy", "semdrivers.emulator", "semdrivers.em30", "semfocus_plugin", "firmware_protocol")
EMULATOR = ("semdrivers.emulator", "firmware_protocol.profile")
EMULATOR_USERS = tuple(f"semfocus_plugin/{room}" for room in ("training/", "evaluation/", "cli", "demo"))
PUBLIC_OF_SEMDRIVERS = {
    "semdrivers",
    "semdrivers.autofocus",
    "semdrivers.console",
    "semdrivers.data_bar",
    "semdrivers.errors",
    "semdrivers.files",
    "semdrivers.grey_levels",
    "semdrivers.hookspecs",
    "semdrivers.microscope",
    "semdrivers.pictures",
    "semdrivers.plain",
    "semdrivers.plotting",
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a file imports, at any depth, relative imports resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def breaches(allowed) -> list[str]:
    """Return every import that `allowed(relative path, name)` does not allow."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources()
        for line, name in imported(path)
        if not allowed(path.relative_to(ROOT).as_posix(), name)
    ]


def under(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def test_firmware_protocol_imports_the_standard_library_only():
    def allowed(path: str, name: str) -> bool:
        if not path.startswith("firmware_protocol/"):
            return True
        return under(name, "firmware_protocol") or name.partition(".")[0] in sys.stdlib_module_names

    assert breaches(allowed) == []


def test_firmware_protocol_does_no_io():
    silent = ("socket", "threading", "time", "asyncio", "subprocess", "select", "selectors")
    assert breaches(lambda path, name: not path.startswith("firmware_protocol/") or not under(name, *silent)) == []


def test_only_firmware_protocol_packs_wire_bytes():
    assert breaches(lambda path, name: path.startswith("firmware_protocol/") or name not in WIRE_MODULES) == []


def test_semdrivers_imports_neither_the_plugin_nor_a_network_runtime():
    forbidden = ("semfocus_plugin", "torch", "onnxruntime", "onnx")
    assert breaches(lambda path, name: not path.startswith("semdrivers/") or not under(name, *forbidden)) == []


@pytest.mark.parametrize(("one", "other"), [("em30", "emulator"), ("emulator", "em30")])
def test_driver_and_emulator_never_import_each_other(one, other):
    """The emulator's ``connect`` reaches the driver through the plugin hook, not through an import."""
    assert (
        breaches(lambda path, name: not path.startswith(f"semdrivers/{one}/") or not under(name, f"semdrivers.{other}"))
        == []
    )


def test_the_autofocus_knows_public_names_only():
    def allowed(path: str, name: str) -> bool:
        if not path.startswith("semfocus_plugin/") or not under(
            name, "semdrivers", "firmware_protocol", "usb", "serial"
        ):
            return True
        if path.startswith(EMULATOR_USERS) and under(name, *EMULATOR):
            return True
        return name in PUBLIC_OF_SEMDRIVERS or name.rpartition(".")[0] in PUBLIC_OF_SEMDRIVERS

    assert breaches(allowed) == []


def test_torch_stays_in_training():
    assert breaches(lambda path, name: path.startswith("semfocus_plugin/training/") or not under(name, "torch")) == []


@pytest.mark.parametrize("package", ["semdrivers"])
def test_importing_loads_nothing_heavy(package):
    code = f"import {package}, sys; print('\\n'.join(sorted(sys.modules)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded = set(listed.split())
    assert package in loaded
    assert sorted(loaded.intersection([*HEAVY, *HEAVY_OWN])) == []


def test_every_public_name_is_there():
    import semdrivers

    for name in semdrivers.__all__:
        assert getattr(semdrivers, name) is not None, name
    assert set(semdrivers.__all__) <= set(dir(semdrivers))
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = semdrivers.conect
