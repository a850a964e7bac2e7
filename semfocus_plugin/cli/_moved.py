"""Options that have become commands: the old spelling ends in a message that names the new one."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


def moved(**commands: str) -> type[TyperCommand]:
    """Return the class of a command some of whose options have become commands.

    Parameters
    ----------
    **commands : str
        The new command, by the name of the option without its hyphens.
    """

    class Moved(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            for argument in args:
                command = commands.get(argument.partition("=")[0].removeprefix("--").replace("-", "_"))
                if command is not None and argument.startswith("--"):
                    ctx.fail(f"{argument.partition('=')[0]} is a command now: {command} (see {command} --help)")
            return list(super().parse_args(ctx, args))

    return Moved
