"""Who may import whom: the rules of the house, read from the source itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from semfocus_plugin.lab import house
from semfocus_plugin.lab.reference import PACKAGES, modules

ROOT = Path(__file__).parents[1]
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
DRIVERS = sorted(path.parent.name for path in ROOT.glob("semdrivers/*/_driver.py"))
HEAVY_OWN = (
    "pluggy",
    "semdrivers.emulator",
    "semfocus_plugin",
    "firmware_protocol",
    *(f"semdrivers.{driver}" for driver in DRIVERS),
)
PUBLIC_OF_SEMDRIVERS = {
    "semdrivers",
    "semdrivers.autofocus",
    "semdrivers.base",
    "semdrivers.conformance",
    "semdrivers.console",
    "semdrivers.data_bar",
    "semdrivers.errors",
    "semdrivers.files",
    "semdrivers.focus",
    "semdrivers.grey_levels",
    "semdrivers.image",
    "semdrivers.instruments",
    "semdrivers.maps",
    "semdrivers.microscope",
    "semdrivers.notify",
    "semdrivers.plugins",
    "semdrivers.remote",
    "semdrivers.tracking",
}


@cache
def sources() -> list[Path]:
    return list(modules(ROOT).values())


@cache
def imported(path: Path) -> list[tuple[int, str]]:
    return house.imported(ROOT, path)


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
    def allowed(path, name):
        compressed_file = (path, name) == ("semdrivers/files/_png.py", "zlib")  # no wire
        return path.startswith("firmware_protocol/") or name not in WIRE_MODULES or compressed_file

    assert breaches(allowed) == []


def test_semdrivers_imports_neither_the_plugin_nor_a_network_runtime():
    forbidden = ("semfocus_plugin", "torch", "onnxruntime", "onnx")
    assert breaches(lambda path, name: not path.startswith("semdrivers/") or not under(name, *forbidden)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [pair for driver in DRIVERS for pair in ((driver, "emulator"), ("emulator", driver))],
)
def test_driver_and_emulator_never_import_each_other(one, other):
    """The emulator's ``connect`` reaches the driver through the plugin hook, not through an import."""
    assert (
        breaches(lambda path, name: not path.startswith(f"semdrivers/{one}/") or not under(name, f"semdrivers.{other}"))
        == []
    )


def product(path: str) -> bool:
    return path.startswith("semfocus_plugin/") and not path.startswith("semfocus_plugin/lab/")


def test_the_autofocus_knows_public_names_only():
    def allowed(path: str, name: str) -> bool:
        if not product(path) or not under(name, "semdrivers", "firmware_protocol", "usb", "serial"):
            return True
        return name in PUBLIC_OF_SEMDRIVERS or name.rpartition(".")[0] in PUBLIC_OF_SEMDRIVERS

    assert breaches(allowed) == []


def test_the_product_imports_neither_laboratory_nor_emulator_nor_torch():
    forbidden = ("semfocus_plugin.lab", "semdrivers.emulator", "torch", "onnx")
    assert breaches(lambda path, name: not product(path) or not under(name, *forbidden)) == []


def test_torch_stays_in_training():
    training = "semfocus_plugin/lab/training/"
    assert breaches(lambda path, name: path.startswith(training) or not under(name, "torch")) == []


def test_what_an_extra_brings_is_imported_where_it_is_used():
    """The demonstration runs on the dependencies of the runtime alone."""
    extras = ("scipy", "joblib", "skimage", "mapfost", "requests", "onnx", "torch")
    extras += ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client")
    extras += ("dask", "distributed", "fsspec", "s3fs", "threadpoolctl", "gymnasium", "stable_baselines3")
    for path in sources():
        if "lab/training/" in path.as_posix() or path.name == "_api.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if under(name, *extras)], path


def test_nothing_imports_itself_in_a_circle_and_nothing_back_up():
    """Imports inside functions and those for type checkers count too."""
    graph = house.imports(ROOT)
    assert len(graph) == len(sources())
    assert house.circles(graph) == []
    assert house.arrows_up(graph) == []


def test_a_circle_and_an_import_back_up_are_noticed(tmp_path):
    written = {
        "firmware_protocol/one.py": "def f():\n    from firmware_protocol import two\n",
        "firmware_protocol/two.py": "from firmware_protocol.one import f\n",
        "semdrivers/three.py": "import firmware_protocol.one\nimport semfocus_plugin.lab.four\n",
        "semfocus_plugin/lab/four.py": "",
    }
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    graph = house.imports(tmp_path)
    assert house.circles(graph) == [{"firmware_protocol.one", "firmware_protocol.two"}]
    assert house.arrows_up(graph) == [("semdrivers.three", "semfocus_plugin.lab.four")]


def test_lines_are_counted_by_what_they_hold(tmp_path):
    path = tmp_path / "room.py"
    path.write_text('"""Says\n\nmore."""\n\n# alone\nx = """a\nb"""  # beside\n', encoding="utf-8")
    assert house.lines(path) == {"docstrings": 3, "comments": 1, "code": 2}


def private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def test_a_room_is_entered_by_its_door():
    """A private module, or a private name of one, is imported by its own room alone."""

    def allowed(path: str, name: str) -> bool:
        if not under(name, *PACKAGES) or not private(name):
            return True
        room = ".".join(Path(path).parts[:-1])
        owner = name.split("._")[0]
        return owner == room or (owner in PACKAGES and room == owner)

    assert breaches(allowed) == []


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


def test_branches_are_counted_by_room(tmp_path):
    counts = {
        "firmware_protocol/usb.py": (4, 4),
        "semdrivers/focus.py": (8, 6),
        "semdrivers/em30/_driver.py": (10, 9),
        "semdrivers/em30/__init__.py": (0, 0),
        "semdrivers/emulator/_emulator.py": (20, 5),
        "semfocus_plugin/run/_loop.py": (10, 8),
    }
    files = {
        name: {"summary": {"num_branches": number, "covered_branches": covered}}
        for name, (number, covered) in counts.items()
    }
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"files": files}), encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in house.branches(report).splitlines()[2:]]
    assert rows == [
        ["`firmware_protocol`", "4", "4", "100.0%"],
        ["`semdrivers`", "8", "6", "75.0%"],
        ["`semdrivers.em30`", "10", "9", "90.0%"],
        ["`semdrivers.emulator`", "20", "5", "25.0%"],
        ["`semfocus_plugin.run`", "10", "8", "80.0%"],
        ["**the product**", "32", "27", "84.4%"],
    ]
