"""The generated parts of ``docs/reference``: public Python names, and the commands of both programs.

::

    python -m semfocus_plugin.lab.reference            # write both pages
    python -m semfocus_plugin.lab.reference --check    # exit code 1 when a page is stale

Python names are read from the source and nothing is imported for them, so neither torch nor a host program is needed.
A module is public when no part of its dotted name begins with an underscore; its names are those of ``__all__``.
What people wrote in a page stands outside its markers and is kept.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = [
    "FOR_USERS", "PACKAGES", "PROGRAMS", "PublicName", "command_tables", "main", "modules", "name_tables", "pages",
    "public_modules", "public_names", "unlisted",
]  # fmt: skip

PACKAGES = ("firmware_protocol", "semdrivers", "semfocus_plugin")
"""The packages of the distribution."""

PROGRAMS = {"semdrivers": "semdrivers._cli", "semfocus": "semfocus_plugin.lab.cli"}
"""Console scripts, and the module whose ``app`` holds the commands of each."""

FOR_USERS = ("semdrivers", "semdrivers.emulator", "semdrivers.hosts", "semfocus_plugin", "semfocus_plugin.calibration")
"""Rooms that a user of a microscope imports from, and adapters of hosts; other public modules are for authors."""

_COMMAND = "python -m semfocus_plugin.lab.reference"
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class PublicName:
    """A name in the ``__all__`` of a public module.

    Parameters
    ----------
    name : str
        The name.
    kind : str
        ``"class"``, ``"function"``, ``"value"`` or ``"module"``.
    summary : str
        First paragraph of the docstring on one line, empty where there is none.
    """

    name: str
    kind: str
    summary: str


def modules(root: Path, folders: Sequence[str] = PACKAGES) -> dict[str, Path]:
    """Return dotted name and file of every module in folders of a checkout, the packages by default."""
    found = {}
    for path in (path for folder in folders for path in (root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items()))


def public_modules(root: Path) -> dict[str, Path]:
    """Return dotted name and file of every public module under the folder that holds the packages."""
    return {name: path for name, path in modules(root).items() if not any(p.startswith("_") for p in name.split("."))}


def public_names(root: Path, module: str) -> tuple[PublicName, ...]:
    """Return the names in the ``__all__`` of a module, alphabetically.

    Raises
    ------
    ValueError
        When the module defines names and has no ``__all__``, or one of its names is defined nowhere in the packages.
    """
    listed = _listed(_tree(root, module))
    if listed is None:
        if unlisted(root, module):
            raise ValueError(f"{module} has no __all__")
        return ()
    return tuple(_resolve(root, module, name) for name in sorted(listed, key=lambda name: (name.lower(), name)))


def unlisted(root: Path, module: str) -> list[str]:
    """Return the names without a leading underscore that a module defines and does not list in ``__all__``."""
    tree = _tree(root, module)
    listed = _listed(tree) or ()
    return sorted({name for name, _, _ in _definitions(tree) if not name.startswith("_") and name not in listed})


def name_tables(root: Path) -> str:
    """Return the Markdown that lists every public module and name in two tiers."""
    public = public_modules(root)
    users = [module for module in public if module in FOR_USERS or module.startswith("semdrivers.hosts.")]
    tiers = {
        "For users of a microscope": users,
        "For authors of drivers, plugins and laboratory work": [module for module in public if module not in users],
    }
    lines = []
    for title, members in tiers.items():
        lines += [f"## {title}", ""]
        for module in members:
            lines += [f"### `{module}`", "", _summary(ast.get_docstring(_tree(root, module))), ""]
            names = public_names(root, module)
            if names:
                lines += ["| name | is |", "| --- | --- |"]
                lines += [
                    f"| `{name.name}{'()' if name.kind == 'function' else ''}` | {_cell(name.summary or name.kind)} |"
                    for name in names
                ]
                lines.append("")
    return "\n".join(lines)


def command_tables() -> str:
    """Return the Markdown that lists every command of both programs with its arguments and options."""
    from typer.main import get_command

    lines: list[str] = []
    for program, module in PROGRAMS.items():
        lines += [f"## {program}", ""]
        commands = list(_commands(get_command(import_module(module).app), program))
        lines += ["| command | does |", "| --- | --- |"]
        for name, command in commands:
            lines.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(_summary(_plain(command.help)))} |")
        lines.append("")
        for name, command in commands:
            lines += [f"### {name}", "", f"`{_usage(name, command)}`", "", *_help(command), ""]
            rows = [row for parameter in command.params if (row := _option(parameter)) is not None]
            if rows:
                lines += ["| option | default | is |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def pages(root: Path) -> dict[Path, str]:
    """Return both pages of the reference as they should be, what people wrote in them kept."""
    folder = root / "docs" / "reference"
    made = {folder / "python.md": name_tables(root), folder / "command-line.md": command_tables()}
    return {path: _replaced(path.read_text(encoding="utf-8"), text, path) for path, text in made.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both pages, or with ``--check`` report those that are stale. Returns the exit code."""
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    root, stale = Path(__file__).parents[2], []
    if not (root / "docs" / "reference").is_dir():
        print(f"{root} holds no docs/reference: run this in a checkout of the repository", file=sys.stderr)
        return 1
    for path, text in pages(root).items():
        if path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path}: {f'stale, run {_COMMAND}' if check else 'written'}")
    return 1 if check and stale else 0


def _replaced(page: str, generated: str, path: Path) -> str:
    begin, end = f"<!-- generated: {_COMMAND} -->\n", "<!-- end of the generated part -->\n"
    before, opening, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not (opening and closing):
        raise ValueError(f"{path} lacks the markers {begin.strip()} and {end.strip()}")
    return f"{before}{begin}\n{generated.strip()}\n\n{end}{after}"


def _file(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _tree(root: Path, module: str) -> ast.Module:
    path = _file(root, module)
    if path is None:
        raise ValueError(f"there is no module {module} under {root}")
    return _parsed(path)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _listed(tree: ast.Module) -> list[str] | None:
    for name, node, _ in _definitions(tree):
        if name == "__all__" and isinstance(node, ast.Assign):
            return list(ast.literal_eval(node.value))
    return None


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt, ast.stmt | None]]:
    """Yield every name that a module defines itself, its statement and the statement after it."""
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, _DOCUMENTED):
            yield node.name, node, after
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in [part for whole in targets for part in (whole.elts if isinstance(whole, ast.Tuple) else [whole])]:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign):
                yield target.id, node, after


def _resolve(root: Path, module: str, name: str) -> PublicName:
    tree = _tree(root, module)
    for defined, node, after in _definitions(tree):
        if defined != name:
            continue
        if isinstance(node, ast.ClassDef):
            return PublicName(name, "class", _summary(ast.get_docstring(node)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return PublicName(name, "function", _summary(ast.get_docstring(node)))
        said = after.value if isinstance(after, ast.Expr) else None
        text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else None
        return PublicName(name, "value", _summary(text))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    for source, alias in ((str(node.module), alias) for node in imports for alias in node.names):
        if (alias.asname or alias.name) != name:
            continue
        if _file(root, source) is None:
            return PublicName(name, "value", f"`{alias.name}` of {source}.")
        inner = f"{source}.{alias.name}"
        if _file(root, inner) is not None and alias.name not in (_listed(_tree(root, source)) or ()):
            return PublicName(name, "module", _summary(ast.get_docstring(_tree(root, inner))))
        origin = _resolve(root, source, alias.name)
        return PublicName(name, origin.kind, origin.summary)
    if name == "__version__":
        return PublicName(name, "value", "Version of the distribution.")
    raise ValueError(f"{module}: {name} is in __all__ and is defined nowhere in the packages")


def _summary(text: str | None) -> str:
    """Return the first paragraph of a docstring on one line, in Markdown."""
    first = inspect.cleandoc(text or "").partition("\n\n")[0]
    first = re.sub(r"(?<!`)`(?!`)|``", "`", first)
    return " ".join(first.removesuffix("::").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command below a group with its full name; a hidden command is left out."""
    inner: Mapping[str, Any] | None = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, further in inner.items():
        if not getattr(further, "hidden", False):
            yield from _commands(further, f"{name} {word}")


def _usage(name: str, command: Any) -> str:
    words = [name]
    for parameter in command.params:
        if parameter.param_type_name != "argument":
            continue
        word = f"{(parameter.metavar or parameter.name).upper().strip('[].')}{'…' if parameter.nargs == -1 else ''}"
        words.append(word if parameter.required else f"[{word}]")
    return " ".join(words)


def _plain(text: str | None) -> str:
    """Return a help text as it is shown: a bracket is escaped in it, or it would be markup."""
    return (text or "").replace("\\[", "[")


def _help(command: Any) -> list[str]:
    """Return the help of a command as paragraphs; its example becomes code."""
    paragraphs = inspect.cleandoc(_plain(command.help)).split("\n\n")
    lines: list[str] = []
    for paragraph in paragraphs:
        text = " ".join(paragraph.replace("\b", "").split())
        example = re.fullmatch(r"Example: (.*)", text)
        lines += [f"Example: `{example[1]}`" if example else text, ""]
    return lines[:-1]


def _option(parameter: Any) -> str | None:
    """Return one row of Markdown, or None for ``--help``."""
    if "--help" in parameter.opts or getattr(parameter, "hidden", False):
        return None
    words = [*parameter.opts, *parameter.secondary_opts]
    names = ", ".join(f"`{word}`" for word in words)
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper().strip('[].')}`"
    help_text = _cell(" ".join(_plain(getattr(parameter, "help", None)).split()))
    return f"| {names} | {_default(parameter)} | {help_text.strip()} |"


def _default(parameter: Any) -> str:
    default = parameter.default
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False):
        return "on" if default is True else "off"
    if default is None or callable(default) or default in ((), [], ""):
        return ""
    if isinstance(default, list | tuple):
        return " ".join(f"`{value}`" for value in default)
    return f"`{getattr(default, 'value', default)}`"


if __name__ == "__main__":
    sys.exit(main())
