"""The Python in README and docs is run, block by block, as a reader would."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOSTS = {"pymmcore": "pymmcore_plus", "bluesky": "bluesky", "qcodes": "qcodes", "fibsem": "fibsem"}
NEEDS_HARDWARE = re.compile(r"em30(\+serial)?://(?!127\.0\.0\.1)")


def blocks(page: Path) -> list[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in BLOCK.finditer(text)]


PAGES_WITH_CODE = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """The blocks of a page share their names, as in one session.

    Those that need an instrument, or a host that is not installed, are compiled only.
    """
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, source in blocks(page):
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        if not NEEDS_HARDWARE.search(re.sub(r"#.*", "", source)) and not needs_absent_host(source):
            exec(code, names)


def needs_absent_host(source: str) -> bool:
    """Whether a block imports the adapter of a host that is not installed."""
    absent = [host for host, module in HOSTS.items() if find_spec(module) is None]
    return any(f"from semdrivers.hosts.{host} import" in source for host in absent)


def test_every_link_between_pages_leads_somewhere():
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_the_reference_names_every_public_name():
    import semdrivers

    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert [name for name in semdrivers.__all__ if not re.search(rf"\b{name}\b", text)] == []


def commands(command, name: str):
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
        return
    for word, further in inner.items():
        yield from commands(further, f"{name} {word}")


@pytest.mark.parametrize("program", ["semdrivers", "semfocus"])
def test_the_reference_names_every_command_and_option(program):
    from importlib import import_module

    from typer.main import get_command

    app = import_module({"semdrivers": "semdrivers._cli", "semfocus": "semfocus_plugin.lab.cli"}[program]).app
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    section = text.split(f"## {program}\n")[1].split("\n## ")[0]
    missing = []
    for name, options in commands(get_command(app), program):
        words = [name.removeprefix(f"{program} "), *options]
        missing += [f"{name}: {word}" for word in words if not re.search(rf"`{re.escape(word)}[` ]", section)]
    assert missing == []
