"""The command line ``semfocus``: the commands of the product, and those of the laboratory."""

from __future__ import annotations

from semfocus_plugin.cli import app, moved
from semfocus_plugin.lab.cli._benchmark import benchmark, speed
from semfocus_plugin.lab.cli._demo import demo
from semfocus_plugin.lab.cli._evaluate import evaluate
from semfocus_plugin.lab.cli._lab import lab
from semfocus_plugin.lab.cli._reproduce import reproduce
from semfocus_plugin.lab.cli._sweep import sweep
from semfocus_plugin.lab.cli._train import dataset, train

__all__ = ["app", "main"]

_PANEL = "Laboratory: measure, compare and train"

app.command()(demo)
app.registered_commands.insert(0, app.registered_commands.pop())
for _command, _class in (
    (evaluate, moved(table="semfocus reproduce", figure="semfocus reproduce")),
    (benchmark, moved(speed="semfocus speed")),
    (reproduce, None),
    (speed, None),
    (dataset, None),
    (sweep, None),
):
    app.command(cls=_class, rich_help_panel=_PANEL)(_command)
app.add_typer(train, name="train", rich_help_panel=_PANEL)
app.add_typer(lab, name="lab", rich_help_panel=_PANEL)


def main() -> None:
    """Run the command line."""
    app()
