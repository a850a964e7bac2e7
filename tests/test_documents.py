"""The Python in README and docs is run, block by block, as a reader would."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from semfocus_plugin.lab.reference import PROGRAMS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_HARDWARE = re.compile(r"em30(\+serial)?://(?!127\.0\.0\.1)")


def blocks(page: Path) -> list[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in BLOCK.finditer(text)]


PAGES_WITH_CODE = [
    pytest.param(page, id=page.relative_to(ROOT).as_posix())
    for page in PAGES
    if blocks(page) and page.name != "README.md"
]


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


@pytest.mark.parametrize(
    ("line", "source"), [pytest.param(*block, id=f"line {block[0]}") for block in blocks(ROOT / "README.md")]
)
def test_a_block_of_the_readme_runs_by_itself(line, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile("\n" * (line - 1) + source, str(ROOT / "README.md"), "exec")
    if not needs_absent_host(source):
        exec(code, {"__name__": "__main__"})


def test_the_notebook_holds_what_it_printed():
    """`mkdocs build` executes it; here, that what a reader sees without that is whole, and of no one's computer."""
    text = (ROOT / "docs" / "first-focus.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] in ("error", "stream")]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 3
    assert not re.search(r"(/home/|/root|/tmp/|[A-Z]:\\\\Users)", text)
    for cell in cells:
        compile("".join(cell["source"]), "first-focus.ipynb", "exec")


def needs_absent_host(source: str) -> bool:
    """Whether a block imports the adapter of a host that is not installed."""
    for host in re.findall(r"from (semdrivers\.hosts\.\w+) import", source):
        try:
            import_module(host)
        except ImportError:
            return True
    return False


def test_every_link_between_pages_leads_somewhere():
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:.*&& )?((?:semfocus|semdrivers) [^|#\n]+)", re.MULTILINE)
CONSOLE = re.compile(r"^```(?:console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )?(?:semfocus|semdrivers) [^`]+)`")
WRITTEN = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("*.md"))]


def typed(page: Path) -> list[str]:
    """Return the commands that a page lets its reader type."""
    text = page.read_text(encoding="utf-8")
    spans = [*CONSOLE.findall(text), *(" ".join(span.split()) for span in INLINE.findall(text))]
    return [match.strip() for span in spans for match in COMMAND.findall(span)]


@cache
def commands_of(program: str) -> Any:
    return get_command(import_module(PROGRAMS[program]).app)


def complaint(line: str) -> str:
    """Return what is wrong with a command, or an empty text; values are not looked at."""
    program, *words = shlex.split(line, comments=True)
    command = commands_of(program)
    while words and (inner := getattr(command, "commands", None)) is not None and not words[0].startswith("-"):
        if words[0] not in inner and "sheet" in inner:  # `semfocus label FOLDER` is `semfocus label sheet FOLDER`
            words.insert(0, "sheet")
        if words[0] not in inner:
            return f"{line}: there is no command {words[0]!r}"
        command, words = inner[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
    return "".join(f"{line}: no option {word!r}" for word in words if word.startswith("--") and word not in known)


def test_every_command_that_a_page_shows_exists():
    assert [wrong for page in WRITTEN for line in typed(page) if (wrong := complaint(line))] == []


def test_every_install_line_works_in_a_checkout():
    """The package is on no index; messages name an extra of the package that is installed already."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pages = [*WRITTEN, ROOT / "SECURITY.md", ROOT / "docs" / "first-focus.ipynb"]
    lines = [
        (page.name, line)
        for page in pages
        if page.name != "command-line.md"
        for line in re.findall(r"pip install ([^#`\n]*)", page.read_text(encoding="utf-8"))
    ]
    assert [(page, line) for page, line in lines if re.search(r"\bsemdrivers\b", line)] == []
    sources = [
        path.read_text(encoding="utf-8")
        for room in ("semdrivers", "semfocus_plugin")
        for path in (ROOT / room).rglob("*.py")
    ]
    written = [
        *(line for _, line in lines),
        *(f".[{each}]" for text in sources for each in re.findall(r"semdrivers\\*\[([\w-]+)", text)),
    ]
    named = [
        name.strip() for line in written for group in re.findall(r"\.\[([\w,-]+)\]", line) for name in group.split(",")
    ]
    assert len(named) > 20
    assert set(named) - set(extras) == {"EXTRA"}  # as the README names any of them


def test_a_command_that_does_not_exist_is_noticed():
    assert complaint("semfocus run em30://192.168.1.30 --max-travel 1.5") == ""
    assert "no command 'fokus'" in complaint("semfocus fokus")
    assert "no option '--limit'" in complaint("semfocus run em30://192.168.1.30 --limit 3")


def test_the_page_of_usual_changes_names_files_that_exist_and_no_more_than_five():
    text = (ROOT / "docs" / "explanation" / "where-does-it-go.md").read_text(encoding="utf-8")
    overview, *changes = text.split("\n## ")
    counted = dict(re.findall(r"^\| \[(.+)\]\(#[^)]*\) \| (\d) \|$", overview, re.MULTILINE))
    assert len(counted) == len(changes) >= 12
    for change in changes:
        title, rest = change.split("\n", 1)
        files = [row for row in re.findall(r"^\| (.+?) \| ", rest, re.MULTILINE) if row not in ("file", "---")]
        assert len(files) == int(counted[title]) <= 5, title
        paths = [word for word in re.findall(r"`([\w./]+/[\w.]*)`", rest) if not re.search("NAME|MAKE", word)]
        assert [path for path in paths if not (ROOT / path).exists()] == [], title


UNCLEAR = re.compile(r"\b(tells?|told|telling|befell|befalls?|wants)\b", re.IGNORECASE)


def test_pages_use_plain_verbs():
    """Pages say configure, pass, detect, report, need; so do the summaries of public names."""
    pages = [*WRITTEN, ROOT / "CHANGELOG.md", *sorted((ROOT / "firmware_protocol").glob("*.md"))]
    found = [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages
        if page != ROOT / "docs" / "benchmark.md"
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if UNCLEAR.search(line)
    ]
    assert found == []


def test_no_page_holds_output_of_an_installer():
    held = [
        page.name
        for page in PAGES
        if re.search(r"^(WARNING|ERROR|Collecting|Requirement) ?[: ]", page.read_text(), re.M)
    ]
    assert held == []


def test_every_test_that_a_page_names_exists():
    named = {
        (path, test)
        for page in (ROOT / "docs").rglob("*.md")
        for path, test in re.findall(r"`(\w[\w/]*\.py)::(test_\w+)`", page.read_text(encoding="utf-8"))
    }
    assert named
    for path, test in sorted(named):
        assert f"def {test}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), (path, test)
