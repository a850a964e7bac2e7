"""The reference lists what there is: every public module, every public name, every command."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from semfocus_plugin.lab import reference

ROOT = Path(__file__).parents[1]
MODULES = sorted(reference.public_modules(ROOT))


@pytest.mark.parametrize("page", ["python.md", "command-line.md"])
def test_the_page_is_what_the_command_writes(page):
    path = ROOT / "docs" / "reference" / page
    assert path.read_text(encoding="utf-8") == reference.pages(ROOT)[path], (
        "stale: run python -m semfocus_plugin.lab.reference"
    )


def test_every_public_module_is_on_the_page():
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert [module for module in MODULES if f"\n### `{module}`\n" not in text] == []


def test_every_public_module_lists_all_its_names_and_says_what_each_is():
    unlisted = {module: names for module in MODULES if (names := reference.unlisted(ROOT, module))}
    assert unlisted == {}
    unsaid = [
        f"{module}.{name.name}"
        for module in MODULES
        for name in reference.public_names(ROOT, module)
        if not name.summary
    ]
    assert unsaid == []


def test_a_name_that_is_not_listed_is_noticed(tmp_path):
    for package in reference.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('"""A package."""\n', encoding="utf-8")
    source = '"""A room."""\n\n__all__ = ["seen"]\n\n\ndef seen():\n    """Return 1."""\n\n\ndef unseen():\n    pass\n'
    (tmp_path / "semdrivers" / "room.py").write_text(source, encoding="utf-8")
    (tmp_path / "semdrivers" / "_closet.py").write_text("hidden = 1\n", encoding="utf-8")
    assert "semdrivers.room" in reference.public_modules(tmp_path)
    assert "semdrivers._closet" not in reference.public_modules(tmp_path)
    assert reference.unlisted(tmp_path, "semdrivers.room") == ["unseen"]
    assert [name.summary for name in reference.public_names(tmp_path, "semdrivers.room")] == ["Return 1."]
    assert "### `semdrivers.room`" in reference.name_tables(tmp_path)


def commands():
    """Yield every command with its full name."""

    def below(command, name):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
            return
        for word, further in inner.items():
            if not further.hidden:
                yield from below(further, f"{name} {word}")

    for program, module in reference.PROGRAMS.items():
        yield from below(get_command(import_module(module).app), program)


def test_every_command_and_option_is_on_the_page():
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    missing = []
    for name, command in commands():
        options = [word for parameter in command.params for word in parameter.opts if word.startswith("-")]
        section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        missing += [f"{name} {word}" for word in options if word != "--help" and f"`{word}`" not in section]
        missing += [] if section else [name]
    assert missing == []


def test_no_square_bracket_of_a_help_text_is_taken_for_markup():
    """An extra such as `.[test]` is missing on the screen, unless its bracket is escaped."""
    texts = {
        name: "\n".join(filter(None, [command.help, *(getattr(p, "help", None) for p in command.params)]))
        for name, command in commands()
    }
    assert [name for name, text in texts.items() if re.search(r"(?<!\\)\[[a-z#/@]", text)] == []


def test_the_help_of_every_option_states_its_default():
    """The parser prints a value that is the default; where there is none, the text says what applies."""
    unsaid = [
        f"{name} {parameter.opts[0]}"
        for name, command in commands()
        for parameter in command.params
        if parameter.opts[0].startswith("-") and not parameter.required and not getattr(parameter, "is_flag", False)
        if parameter.default is None and "default" not in (parameter.help or "")
    ]
    assert unsaid == []
