"""The command line ``semfocus``: the commands of the product, and those of the laboratory."""

from __future__ import annotations

from semfocus_plugin.cli import app
from semfocus_plugin.lab.cli._benchmark import benchmark
from semfocus_plugin.lab.cli._demo import demo
from semfocus_plugin.lab.cli._evaluate import evaluate
from semfocus_plugin.lab.cli._train import dataset, train

__all__ = ["app", "main"]

app.command()(demo)
app.command()(evaluate)
app.command()(benchmark)
app.command()(dataset)
app.add_typer(train, name="train")


def main() -> None:
    """Run the command line."""
    app()
