"""Commands that make datasets and train the networks; torch is needed for the latter."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from semdrivers.console import application, messages, output
from semdrivers.errors import AutofocusError, InvalidParameterError

train = application("train", "Train the networks (needs torch: pip install 'semdrivers\\[train]').")

Frames = Annotated[
    list[Path] | None,
    typer.Argument(help="Folders that `semfocus dataset` made; with --finetune made on the fly where none is named."),
]
Data = Annotated[list[Path], typer.Argument(help="Folders that `semfocus dataset` made.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoint, history and model.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
Batch = Annotated[int | None, typer.Option(help="Examples a step.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and noise.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")]
Paper = Annotated[bool, typer.Option("--paper", help="The paper's recipe.")]


def dataset(
    folder: Annotated[Path, typer.Argument(help="Where; one folder holds one dataset.")],
    kind: Annotated[
        str, typer.Option(help="frames (Dataset 1, for AENet) or series (Dataset 2, for ACNet).")
    ] = "frames",
    mixture: Annotated[
        str,
        typer.Option(help="paper (its three samples), paper-fast (in FAST frames), broad (and textures, columns)."),
    ] = "broad",
    count: Annotated[int | None, typer.Option(help="Frames, or focal series.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 1,
    label_noise: Annotated[float, typer.Option(help="Human-like label noise; then scores are rounded.")] = 0.0,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.")] = None,
) -> None:
    """Make a dataset from the emulator; a second call makes what is missing.

    Example: semfocus dataset series/ --kind series --count 91
    """
    datasets = _training("datasets")
    counts = {} if count is None else {"count": count}
    if kind == "series" and count is None:
        counts = {"count": 91}
    config = datasets.DatasetConfig(kind=kind, mixture=mixture, seed=seed, label_noise=label_noise, **counts)
    with _bar("files") as (progress, task):
        path = datasets.build(
            config,
            folder,
            workers=workers,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    output.print(f"{config.count} {kind} in {folder}, listed in {path}", markup=False, soft_wrap=True)


@train.command()
def aenet(
    out: Out,
    frames: Frames = None,
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
    start: Annotated[Path | None, typer.Option(help="Folder of a finished run, or of models, to go on from.")] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Go on from the network in use with your own labels; see --data.")
    ] = False,
    data: Annotated[
        list[Path] | None, typer.Option(help="With --finetune: a sheet that `semfocus label` made, labels filled in.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="With --finetune: how much the errors on emulated frames may grow, as a share.")
    ] = 0.1,
    force: Annotated[bool, typer.Option("--force", help="With --finetune: export even what got worse.")] = False,
    resume: Resume = False,
) -> None:
    """Train the evaluation network and export it.

    Example: semfocus train aenet frames/ -o aenet/ --epochs 20

    Example: semfocus train aenet --finetune --data night/labels.csv -o tuned/
    """
    if finetune:
        if paper or width is not None or window is not None or start is not None:
            raise InvalidParameterError(
                "--finetune goes on from the network in use: leave out --paper, --width, --window, --start"
            )
        changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate) | {"seed": seed}
        _finetune(data or [], frames or [], out, changes, tolerance, force, resume)
        return
    if data or force:
        raise InvalidParameterError("--data and --force belong to --finetune; name datasets without an option")
    module, export = _training("aenet"), _training("export")
    changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate, width=width, window=window)
    changes |= {"seed": seed} | _given(start=start and str(start))
    config = _config(module.AENetConfig, frames or [], paper, changes)
    _check_resume(out, resume)
    with _figures() as show:
        checkpoint = module.train(config, out, resume=resume, progress=show)
    _announce(export.export_aenet(checkpoint, out))


@train.command()
def acnet(
    data: Data,
    out: Out,
    paper: Paper = False,
    action_law: Annotated[str | None, typer.Option(help="depth-of-field, or paper (equation 5).")] = None,
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
    _bring_evaluator(out)
    _announce(export.export_acnet(checkpoint, out))


@train.command()
def pair(
    out: Out,
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders of pairs; made in the folder of --out where none is named.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Pairs to make.")] = None,
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
    module, pairs = _training("pair_network"), _training("pairs")
    made = out / "pairs"
    changes = _given(epochs=epochs, batch=batch, learning_rate=learning_rate) | {"seed": seed}
    config = _config(module.PairConfig, data or [made], False, changes)
    wanted = pairs.PairsConfig(seed=seed, **_given(count=count))
    _check_resume(out, resume)
    if not data:
        with _bar("pairs") as (bar, task):
            pairs.build(wanted, made, progress=lambda n, total: bar.update(task, completed=n, total=total))
    with _figures() as show:
        checkpoint = module.train(config, out, resume=resume, progress=show)
    path = module.export(checkpoint, out)
    output.print(f"{path}, described in {path.parent / 'manifest.json'}", markup=False, soft_wrap=True)


def _finetune(
    sheets: list[Path],
    frames: list[Path],
    out: Path,
    changes: dict[str, Any],
    tolerance: float,
    force: bool,
    resume: bool,
) -> None:
    """Fine-tune, report before and after, and export what has not forgotten."""
    module, datasets, export = _training("finetune"), _training("datasets"), _training("export")
    made = out / "emulated"
    config = module.FinetuneConfig(tuple(map(str, sheets)), tuple(map(str, frames)) or (str(made),), **changes)
    _check_resume(out, resume)
    module.read_pictures(config.sheets)
    if not frames:
        with _bar("emulated frames") as (bar, task):
            datasets.build(module.KEPT, made, progress=lambda n, total: bar.update(task, completed=n, total=total))
    with _figures() as show:
        checkpoint, report = module.train(config, out, resume=resume, progress=show)
    (out / "report.json").write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")
    output.print(_before_and_after(report))
    forgotten = report.forgotten(tolerance)
    if forgotten and not force:
        raise AutofocusError(
            f"not exported: on emulated frames the errors grew by more than {tolerance:.0%} ({', '.join(forgotten)}); "
            "try a lower --learning-rate or more labels, or export all the same with --resume --force"
        )
    path = export.export_aenet(checkpoint, out)
    _bring_controllers(out)
    _announce(path)


def _before_and_after(report: Any) -> Table:
    table = Table("held out", "", "before", "after", box=None, pad_edge=False, header_style="bold")
    for name, before, after in (
        ("your pictures", report.pictures_before, report.pictures_after),
        ("emulated frames", report.kept_before, report.kept_after),
    ):
        for key, value in before.items():
            table.add_row(name, key, f"{value:.4g}", f"{after[key]:.4g}")
    return table


def _training(name: str) -> ModuleType:
    """Return a module of the training package, or say what is missing for it."""
    from importlib import import_module

    try:
        return import_module(f"semfocus_plugin.training.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "onnx"):
            raise
        raise AutofocusError(
            f"training needs {error.name}, which is not installed: pip install 'semdrivers[train]'"
        ) from None


def _config(kind: Any, data: list[Path], paper: bool, changes: Mapping[str, Any]) -> Any:
    folders = tuple(str(folder) for folder in data)
    config = kind.paper(folders) if paper else kind(folders)
    return dataclasses.replace(config, **changes)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _check_resume(folder: Path, resume: bool) -> None:
    there = (folder / "checkpoint.pt").exists()
    if resume and not there:
        raise InvalidParameterError(f"{folder} holds no checkpoint.pt to resume from")
    if there and not resume:
        raise InvalidParameterError(f"{folder} holds a checkpoint; add --resume, or name another folder")


class _bar:
    """A progress bar on stderr, as a context that gives the bar and its task."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=messages
        )

    def __enter__(self) -> tuple[Progress, Any]:
        self._progress.start()
        return self._progress, self._progress.add_task(self._what, total=None)

    def __exit__(self, *details: object) -> None:
        self._progress.stop()


class _figures:
    """Shows the figures of training: a bar within an epoch, a line after it."""

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        self._bar = _bar("training")
        self._progress, self._task = self._bar.__enter__()
        return self._show

    def __exit__(self, *details: object) -> None:
        self._bar.__exit__(*details)

    def _show(self, figures: dict[str, float]) -> None:
        if "steps" in figures:
            self._progress.update(
                self._task,
                description=f"epoch {figures['epoch'] + 1:.0f}, loss {figures['loss']:.4f}",
                completed=figures["step"],
                total=figures["steps"],
            )
        else:
            line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            self._progress.console.print(line, markup=False, soft_wrap=True)


def _bring_evaluator(folder: Path) -> None:
    """Put the AENet in use beside the new ACNet, so that the folder can be used as it is."""
    from semfocus_plugin import networks

    manifest = folder / "manifest.json"
    if manifest.exists():
        return
    card = next(card for card in networks.read_manifest() if card.role == "aenet")
    shutil.copy(card.path, folder / card.path.name)
    manifest.write_text(json.dumps({"format": 1, "models": [dict(card.details)]}, indent=2) + "\n", encoding="utf-8")


def _bring_controllers(folder: Path) -> None:
    """Put the ACNets in use beside the new AENet, so that the folder can be used as it is."""
    from semfocus_plugin import networks

    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_text(encoding="utf-8"))
    there = {model["name"] for model in told["models"]}
    for card in networks.read_manifest():
        if card.role == "acnet" and card.name not in there:
            shutil.copy(card.path, folder / card.path.name)
            told["models"].append(dict(card.details))
    manifest.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _announce(path: Path) -> None:
    output.print(f"{path}; use it with SEMFOCUS_MODELS={path.parent}", markup=False, soft_wrap=True)
