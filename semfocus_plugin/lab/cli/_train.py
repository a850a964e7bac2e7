"""Commands that make datasets and train the networks; torch is needed for the latter."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from semdrivers.console import application, end_batch, output
from semdrivers.errors import AutofocusError, InvalidParameterError
from semfocus_plugin.cli import moved, progress_bar
from semfocus_plugin.lab.cli._shared import Dask, Workers, engine, print_table
from semfocus_plugin.lab.parallel import required

train = application("train", "Train the networks (needs torch: pip install '.\\[train]').")

Frames = Annotated[
    list[Path] | None,
    typer.Argument(help="Folders of emulated frames that `semfocus dataset` made; made on the fly by default."),
]
Data = Annotated[list[Path], typer.Argument(help="Folders that `semfocus dataset` made.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoint, history and model.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data; the recipe's by default.")]
Batch = Annotated[int | None, typer.Option(help="Examples a step; the recipe's by default.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate; the recipe's by default.")]
Seed = Annotated[int, typer.Option(help="Random seed; fixes weights, order and noise.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")]
Paper = Annotated[bool, typer.Option("--paper", help="The paper's recipe.")]


def dataset(
    folder: Annotated[
        str, typer.Argument(help="Folder, or address such as s3://bucket/frames; one holds one dataset.")
    ],
    kind: Annotated[
        str, typer.Option(help="frames (Dataset 1, for AENet) or series (Dataset 2, for ACNet).")
    ] = "frames",
    mixture: Annotated[
        str, typer.Option(help="paper (its three samples), paper-fast (in FAST frames), broad (and textures, columns).")
    ] = "broad",
    count: Annotated[
        int | None, typer.Option(help="Frames (30000 by default), or focal series (91 by default).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed; fixes everything that is drawn.")] = 1,
    label_noise: Annotated[
        float, typer.Option(help="Standard deviation of human-like noise on the labels, which are then rounded.")
    ] = 0.0,
    micrographs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of micrographs with MANIFEST.csv to scan instead of named specimens; none by default."
        ),
    ] = None,
    workers: Workers = None,
    dask: Dask = None,
) -> None:
    """Make a dataset from the emulator; a second call makes what is missing.

    Example: semfocus dataset s3://lab/frames --count 1000000 --dask tcp://scheduler:8786

    Example: semfocus dataset series/ --kind series --count 91
    """
    datasets = _training("datasets")
    counts = {} if count is None else {"count": count}
    if kind == "series" and count is None:
        counts = {"count": 91}
    config = datasets.DatasetConfig(
        kind=kind, mixture=mixture, seed=seed, label_noise=label_noise, micrographs=str(micrographs or ""), **counts
    )
    with _bar("files") as advance:
        path = datasets.build(config, folder, workers=engine(workers, dask), progress=advance)
    output.print(f"{config.count} {kind} in {folder}, listed in {path}", markup=False, soft_wrap=True)


@train.command(cls=moved(finetune="semfocus train finetune"))
def aenet(
    data: Data,
    out: Out,
    paper: Paper = False,
    width: Annotated[
        float | None, typer.Option(help="Width of the paper's architecture; the compact one by default.")
    ] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = 1,
    window: Annotated[
        int | None, typer.Option(help="Side in pixels of square windows to train on; whole FAST frames by default.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Folder of a finished run, or of models, to go on from; none by default.")
    ] = None,
    ellipse_only: Annotated[
        bool,
        typer.Option("--ellipse-only", help="Keep what --start reads of round blurs; train what reads astigmatism."),
    ] = False,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a finished run whose scores count as much as the labels; labels alone by default."
        ),
    ] = None,
    resume: Resume = False,
) -> None:
    """Train the evaluation network and export it. Under torchrun several processes share the work.

    Example: semfocus train aenet frames/ -o aenet/ --epochs 20

    Example: torchrun --standalone --nproc-per-node 4 --no-python semfocus train aenet frames/ -o aenet/ --width 1
    """
    module, export = _training("aenet"), _training("export")
    changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate, width=width, window=window)
    changes |= {"seed": seed, "ellipse_only": ellipse_only}
    changes |= _given(start=start and str(start), teacher=teacher and str(teacher))
    config = _config(module.AENetConfig, data, paper, changes)
    _check_resume(out, resume)
    with _figures() as show:
        checkpoint = module.train(config, out, resume=resume, progress=show)
    if os.environ.get("RANK", "0") == "0":
        _announce(export.export_aenet(checkpoint, out))


@train.command()
def finetune(
    sheets: Annotated[
        list[Path], typer.Option("--data", help="Sheet that `semfocus label` made, with labels filled in; repeatable.")
    ],
    out: Out,
    frames: Frames = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = 1,
    tolerance: Annotated[
        float, typer.Option(min=0, help="How much the errors on emulated frames may grow, as a share.")
    ] = 0.1,
    force: Annotated[bool, typer.Option("--force", help="Export even what got worse.")] = False,
    resume: Resume = False,
) -> None:
    """Go on training the evaluation network in use with your own labels, and export what has not forgotten.

    Example: semfocus train finetune --data night/labels.csv -o tuned/
    """
    module, datasets, export = _training("finetune"), _training("datasets"), _training("export")
    made = out / "emulated"
    changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate) | {"seed": seed}
    config = module.FinetuneConfig(tuple(map(str, sheets)), tuple(map(str, frames or [made])), **changes)
    _check_resume(out, resume)
    problems: list[str] = []
    module.read_pictures(config.sheets, problems)
    if not frames:
        with _bar("emulated frames") as advance:
            datasets.build(module.KEPT, made, progress=advance)
    with _figures() as show:
        checkpoint, report = module.train(config, out, resume=resume, progress=show)
    (out / "report.json").write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")
    _print_before_and_after(report)
    forgotten = report.forgotten(tolerance)
    if forgotten and not force:
        raise AutofocusError(
            f"not exported: on emulated frames the errors grew by more than {tolerance:.0%} ({', '.join(forgotten)}); "
            "try a lower --learning-rate or more labels, or export all the same with --resume --force"
        )
    path = export.export_aenet(checkpoint, out)
    _bring(out, "acnet")
    _announce(path)
    end_batch(problems)


@train.command()
def acnet(
    data: Data,
    out: Out,
    paper: Paper = False,
    action_law: Annotated[
        str | None, typer.Option(help="Law of the largest step: depth-of-field (default), or paper (equation 5).")
    ] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = 1,
    resume: Resume = False,
) -> None:
    """Train the control network on focal series, scored by the AENet in use, and export it.

    Example: SEMFOCUS_MODELS=aenet/ semfocus train acnet series/ -o acnet/
    """
    module, export = _training("acnet"), _training("export")
    from semfocus_plugin import networks

    changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate, action_law=action_law)
    config = _config(module.ACNetConfig, data, paper, changes | {"seed": seed})
    _check_resume(out, resume)
    evaluator = networks.load().evaluator
    with _figures() as show:
        checkpoint = module.train(config, out, evaluator, resume=resume, progress=show)
    if not (out / "manifest.json").exists():
        _bring(out, "aenet")
    _announce(export.export_acnet(checkpoint, out))


@train.command()
def reinforced(
    data: Data,
    out: Out,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames to learn from; the recipe's by default.")] = None,
    learning_rate: Rate = None,
    action_law: Annotated[
        str | None, typer.Option(help="Law of the largest step: depth-of-field (default), or paper (equation 5).")
    ] = None,
    seed: Seed = 1,
    resume: Resume = False,
) -> None:
    """Train a control network by reinforcement on focal series, scored by the AENet in use, and export it.

    Example: semfocus train reinforced series/ -o reinforced/
    """
    module = required("semfocus_plugin.lab.training.reinforcement", "reinforcement", "reinforcement")
    from semfocus_plugin import networks

    changes = _given(frames=frames, learning_rate=learning_rate, action_law=action_law) | {"seed": seed}
    config = _config(module.ReinforcedConfig, data, False, changes)
    _check_resume(out, resume, module.CHECKPOINT)
    with _figures() as show:
        path = module.train(config, out, networks.load().evaluator, resume=resume, progress=show)
    _bring(out, "aenet")
    _announce(path)


@train.command()
def pair(
    out: Out,
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders of pairs; made in the folder of --out where none is named.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Pairs to make; the recipe's by default.")] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = 1,
    resume: Resume = False,
) -> None:
    """Train the pair network that `semfocus benchmark` compares with (deepfocus-like), and export it.

    Example: semfocus train pair -o pair/
    """
    if data and count is not None:
        raise InvalidParameterError("--count is for pairs made here: leave it out, or name no folder of pairs")
    module, pairs = _training("pair.pair_network"), _training("pair.pairs")
    made = out / "pairs"
    changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate) | {"seed": seed}
    config = _config(module.PairConfig, data or [made], False, changes)
    drawn = pairs.PairsConfig(seed=seed, **_given(count=count))
    _check_resume(out, resume)
    if not data:
        with _bar("pairs") as advance:
            _training("datasets").build(drawn, made, progress=advance)
    with _figures() as show:
        checkpoint = module.train(config, out, resume=resume, progress=show)
    path = module.export(checkpoint, out)
    output.print(f"{path}, described in {path.parent / 'manifest.json'}", markup=False, soft_wrap=True)


def _print_before_and_after(report: Any) -> None:
    parts = {
        "your pictures": (report.pictures_before, report.pictures_after),
        "emulated frames": (report.kept_before, report.kept_after),
    }
    lines = [
        (f"{name}: {key}", f"{value:.4g}", f"{after[key]:.4g}")
        for name, (before, after) in parts.items()
        for key, value in before.items()
    ]
    print_table(("held out", "before", "after"), lines, width=60)


def _training(name: str) -> Any:
    """Return a module of the training package, or say what is missing for it."""
    return required(f"semfocus_plugin.lab.training.{name}", "training", "train")


def _config(kind: Any, data: list[Path], paper: bool, changes: Mapping[str, Any]) -> Any:
    folders = tuple(str(folder) for folder in data)
    config = kind.paper(folders) if paper else kind(folders)
    return dataclasses.replace(config, **changes)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _check_resume(folder: Path, resume: bool, name: str = "checkpoint.pt") -> None:
    there = (folder / name).exists()
    if resume and not there:
        raise InvalidParameterError(f"{folder} holds no {name} to resume from")
    if there and not resume:
        raise InvalidParameterError(f"{folder} holds a checkpoint; add --resume, or name another folder")


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr; gives what to call with the steps done, and all of them."""
    with progress_bar() as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def _figures() -> Iterator[Callable[[dict[str, float]], None]]:
    """Show the figures of training: a bar within an epoch, a line after it."""
    with progress_bar() as progress:
        task = progress.add_task("training", total=None)

        def show(figures: dict[str, float]) -> None:
            if "steps" in figures:
                title = f"epoch {figures['epoch'] + 1:.0f}, loss {figures['loss']:.4f}"
                progress.update(task, description=title, completed=figures["step"], total=figures["steps"])
            else:
                line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                progress.console.print(line, markup=False, soft_wrap=True)

        yield show


def _bring(folder: Path, role: str) -> None:
    """Put the networks in use of a role beside a new one, so that the folder can be used as it is."""
    from semfocus_plugin import networks

    path = folder / "manifest.json"
    manifest: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"format": 1, "models": []}
    )
    names = {model["name"] for model in manifest["models"]}
    for card in networks.read_manifest():
        if card.role == role and card.name not in names:
            shutil.copy(card.path, folder / card.path.name)
            manifest["models"].append(dict(card.details))
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _announce(path: Path) -> None:
    output.print(f"{path}; use it with SEMFOCUS_MODELS={path.parent}", markup=False, soft_wrap=True)
