"""The size and the structure of the source, counted anew at every call, so that no figure of them can be out of date.

::

    python -m semfocus_plugin.lab.house            # this checkout
    python -m semfocus_plugin.lab.house FOLDER     # another one, such as an older state in a worktree
    python -m semfocus_plugin.lab.house coverage.json    # branches that tests pass through, after `pytest --cov`

The files are read, and nothing is imported from them.
"""

from __future__ import annotations

import ast
import io
import json
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from semfocus_plugin.lab.benchmark.report import markdown_table
from semfocus_plugin.lab.reference import PACKAGES, modules, public_modules, public_names

__all__ = ["LIBRARY", "PARTS", "arrows_up", "branches", "circles", "imported", "imports", "lines", "main", "tables"]

PARTS = {
    "semdrivers/emulator/": "emulator",
    "semdrivers/hosts/": "hosts",
    "semfocus_plugin/lab/": "laboratory",
    "firmware_protocol/": "protocol",
    "semdrivers/": "drivers and files",
    "semfocus_plugin/": "autofocus",
    "tests/": "tests",
}
"""Where a part of the source lies; the first one that fits counts."""

LIBRARY = ("protocol", "drivers and files", "autofocus")
"""The parts that run at an instrument."""

_KINDS = ("code", "docstrings", "comments")
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}


def imported(root: Path, path: Path) -> list[tuple[int, str]]:
    """Return line and full name of everything that a file imports, at any depth, relative imports resolved."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names += [(node.lineno, module), *((node.lineno, f"{module}.{alias.name}") for alias in node.names)]
    return names


def imports(root: Path) -> dict[str, set[str]]:
    """Return the modules that every module of the packages imports, in functions and for type checkers too."""
    known = modules(root)
    return {
        module: {name for _, name in imported(root, path) if name in known and name != module}
        for module, path in known.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            if (module := ahead.pop()) not in seen:
                seen.add(module)
                ahead += graph[module]
        reached[start] = seen
    groups = {frozenset(other for other in seen if module in reached[other]) for module, seen in reached.items()}
    return [set(group) for group in groups if group]


def arrows_up(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports that go against the order of the packages, from the protocol to the laboratory."""
    return [(module, name) for module, names in graph.items() for name in names if _storey(name) > _storey(module)]


def lines(path: Path) -> Counter[str]:
    """Return how many lines of a file hold code, docstrings, and comments alone."""
    source = path.read_text(encoding="utf-8")
    said = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in _LAYOUT:
            code.update(range(token.start[0], token.end[0] + 1))
    code -= said
    return Counter(dict(zip(_KINDS, (len(code), len(said), len(comments - code - said)), strict=True)))


def tables(root: Path) -> Iterator[str]:
    """Yield the tables of a checkout as Markdown: lines by part, then circles, arrows back up and public names."""
    parts = {part: Counter[str]() for part in PARTS.values()}
    for path in modules(root, (*PACKAGES, "tests")).values():
        where = path.relative_to(root).as_posix()
        parts[next(part for folder, part in PARTS.items() if where.startswith(folder))] += lines(path)
    parts["**at an instrument**"] = sum((parts[part] for part in LIBRARY), Counter())
    parts["**all but tests**"] = sum((parts[part] for part in PARTS.values() if part != "tests"), Counter())
    yield markdown_table(("lines", *_KINDS), [(part, *(f"{n[kind]}" for kind in _KINDS)) for part, n in parts.items()])
    graph, public = imports(root), public_modules(root)
    structure = {
        "modules": len(graph),
        "circles of imports": len(circles(graph)),
        "imports back up": len(arrows_up(graph)),
        "public modules": len(public),
        "public names": sum(len(public_names(root, module)) for module in public),
    }
    yield markdown_table(("structure", "count"), [(name, f"{count}") for name, count in structure.items()])


def branches(report: Path) -> str:
    """Return the branches by room that tests passed through, from what `coverage json` writes, as Markdown.

    `semdrivers` and `semfocus_plugin` stand for the modules that lie in no room. The product is what runs at an
    instrument: all but emulator, hosts and laboratory.
    """
    rooms: dict[str, Counter[str]] = {}
    product = Counter[str]()
    for name, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        where = Path(name)
        counted = Counter({key: file["summary"][key] for key in ("num_branches", "covered_branches")})
        package = where.parts[0]
        deep = len(where.parts) > 2 and package != "firmware_protocol"
        rooms.setdefault(".".join(where.parts[:2]) if deep else package, Counter()).update(counted)
        if next(part for folder, part in PARTS.items() if where.as_posix().startswith(folder)) in LIBRARY:
            product.update(counted)
    rows = {**{f"`{room}`": rooms[room] for room in sorted(rooms)}, "**the product**": product}
    counts = {part: (n["num_branches"], n["covered_branches"]) for part, n in rows.items() if n["num_branches"]}
    return markdown_table(
        ("part", "branches", "passed through", "share"),
        [(part, f"{every}", f"{passed}", f"{passed / every:.1%}") for part, (every, passed) in counts.items()],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of this checkout or of the one in a folder, or those of a report of coverage, and return 0."""
    named = sys.argv[1:] if arguments is None else arguments
    where = Path(named[0]) if named else Path(__file__).parents[2]
    print(branches(where) if where.is_file() else "\n\n".join(tables(where)))
    return 0


def _storey(module: str) -> int:
    return (*PACKAGES, "semfocus_plugin.lab").index(
        "semfocus_plugin.lab" if f"{module}.".startswith("semfocus_plugin.lab.") else module.partition(".")[0]
    )


if __name__ == "__main__":
    sys.exit(main())
