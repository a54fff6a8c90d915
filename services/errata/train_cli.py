"""`errata train …`: trains what a lane learns once, before its first edit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from errata import demo
from errata.cli_options import DeviceOption
from errata.errors import InvalidRequestError
from errata.launch.output import TextTable
from errata.launch.terminal import console

if TYPE_CHECKING:
    from errata.editing.gate_training.training import GateTrainer
    from errata.editing.retriever.examples import Example
    from errata.editing.retriever.training import Trainer
    from errata.editing.retriever.training_config import TrainingConfig

Settings = TypeVar("Settings", bound=BaseModel)
train = typer.Typer(help="Train what lanes learn once.", no_args_is_help=True)

OutOption = Annotated[Path, typer.Option(help="New folder; an interrupted training resumes.")]
ModelOption = Annotated[
    str, typer.Option(help="The LLM: folder or hub id; the demo model if empty.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="File of training records; the demo corpus if left out.")
]
DatasetOption = Annotated[str, typer.Option(help="counterfact, zsre or rippleedits.")]
RecordsOption = Annotated[str, typer.Option(help="Range of records to train on, a:b.")]
EncoderOption = Annotated[
    str, typer.Option(help="Folder or hub id; if empty, a small one is trained from scratch.")
]
GateOption = Annotated[
    Path | None,
    typer.Option(
        "--gate",
        "--retriever",
        help="Gate, or lane model of any LLM, that decides claims; only MLP_P is trained.",
    ),
]
PresetOption = Annotated[str, typer.Option(help="errata, paper or code.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of TrainingConfig, over the preset; repeatable."),
]
MaxMinutesOption = Annotated[
    float, typer.Option(help="Time limit at which the schedule ends; 0 for none.", min=0)
]
ThreadsOption = Annotated[int, typer.Option(help="Torch threads; 0 uses all cores.", min=0)]


@train.callback()
def _train() -> None:
    """Trains what lanes learn once."""


@train.command()
def recipe(
    out: OutOption,
    model: ModelOption = "",
    data: DataOption = None,
    dataset: DatasetOption = "counterfact",
    records: RecordsOption = "0:",
    encoder: EncoderOption = "",
    gate: GateOption = None,
    preset: PresetOption = "errata",
    set_: SetOption = None,
    max_minutes: MaxMinutesOption = 0.0,
    threads: ThreadsOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Trains a RECIPE lane model: encoder, MLPs and Knowledge Sentinel, for one LLM."""
    import torch

    from errata.editing.model.causal_lm import CausalLM
    from errata.editing.retriever import gate_file
    from errata.editing.retriever.start import new_lane_model
    from errata.editing.retriever.training import Trainer

    if bool(model) != (data is not None):
        raise InvalidRequestError(
            "give --model and --data, or neither for the demo's.", field="data"
        )
    config = _config(preset, [*(set_ or []), *(["stages=prompts"] if gate else [])])
    examples, held_out = _examples(data, dataset, records, config.num_validation)
    if threads:
        torch.set_num_threads(threads)
    llm = CausalLM.load(model or demo.model_path(), device=device)
    known = None if gate is None else gate_file.load(gate, llm.device)
    lane_model = new_lane_model(llm, encoder or None, config, known)
    seconds = 60 * max_minutes if max_minutes else math.inf
    trainer = Trainer(
        llm, lane_model, examples, config, out, held_out=held_out, max_seconds=seconds
    )
    _run(trainer)
    console().print(f"lane model in {out}; its log is {out / 'training.csv'}")


@train.command("gate")
def train_gate(
    out: Annotated[Path, typer.Option(help="New folder of the gate.")],
    data: Annotated[Path, typer.Option(help="File of training records.")],
    encoder: Annotated[str, typer.Option(help="Pretrained encoder: folder or hub id.")] = "",
    gate: Annotated[Path | None, typer.Option(help="Gate that is trained further.")] = None,
    dataset: DatasetOption = "counterfact",
    records: RecordsOption = "0:",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of GateTrainingConfig; repeatable."),
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="Length of the training.", min=0.01)] = 25.0,
    threads: ThreadsOption = 0,
) -> None:
    """Trains a gate: encoder, MLPs and Knowledge Sentinel, for lanes on any LLM."""
    import torch

    from errata.editing.gate_training.config import GateTrainingConfig
    from errata.editing.gate_training.training import GateTrainer
    from errata.editing.retriever import gate_file
    from errata.editing.retriever.encoder import Encoder
    from errata.evaluation.data import load_records
    from errata.evaluation.data.examples import as_examples
    from errata.evaluation.edit.plan import parse_range

    if bool(encoder) == (gate is not None):
        raise InvalidRequestError("give --encoder, or --gate to train one further.", field="gate")
    config = _validated(GateTrainingConfig, set_ or [])
    first, last = parse_range(records)
    examples = as_examples(load_records(dataset, data)[first:last])
    if threads:
        torch.set_num_threads(threads)
    start = (
        Encoder.load(encoder, config.max_tokens)
        if gate is None
        else gate_file.load(gate, torch.device("cpu"))
    )
    _run_gate(GateTrainer(start, examples, config, out, max_seconds=60 * max_minutes))
    console().print(f"gate in {out}")


def _config(preset: str, settings: list[str]) -> TrainingConfig:
    from errata.editing.retriever.training_config import PRESETS, TrainingConfig

    if preset not in PRESETS:
        raise InvalidRequestError(
            f"no preset is called {preset!r}; choose one of {', '.join(PRESETS)}.", field="preset"
        )
    return _validated(TrainingConfig, settings, PRESETS[preset])


def _validated(
    config: type[Settings], settings: list[str], preset: Mapping[str, object] | None = None
) -> Settings:
    """The settings of a training: KEY=VALUE over those of a preset."""
    from errata.evaluation.edit.plan import parse_values
    from errata.writer.lanes import problems_in

    try:
        return config.model_validate({**(preset or {}), **parse_values(settings)})
    except ValidationError as error:
        raise InvalidRequestError(f"--set: {problems_in(error)}.", field="set") from error


def _examples(
    data: Path | None, dataset: str, records: str, num_validation: int
) -> tuple[list[Example], list[Example] | None]:
    """Examples of training and of validation; None lets the trainer choose the latter."""
    from errata.evaluation.data import load_records
    from errata.evaluation.data.examples import as_examples
    from errata.evaluation.edit.plan import parse_range
    from errata.launch.demo_examples import demo_examples

    if data is None:
        return demo_examples(demo.load_corpus(), num_validation)
    start, end = parse_range(records)
    return as_examples(load_records(dataset, data)[start:end]), None


def _progress_bar() -> ProgressBar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return ProgressBar(*columns, console=console())


def _run_gate(trainer: GateTrainer) -> None:
    """Trains with a progress bar, then prints the claims in validation."""
    from errata.editing.gate_training.training import GateProgress

    with _progress_bar() as bar:
        task = bar.add_task("training", total=1.0)

        def show(progress: GateProgress) -> None:
            line = f"step {progress.step:,}, loss {progress.loss:.2f}"
            bar.update(task, completed=progress.done, description=line)

        report = trainer.run(show)
    table = TextTable("validation", "held-out records", "held-out relations")
    for name in ("right", "other", "wrongly"):
        shares = (getattr(report.records, name), getattr(report.relations, name))
        table.add_row(f"claimed {name}", *(f"{share:.3f}" for share in shares))
    console().print(table)


def _run(trainer: Trainer) -> None:
    """Trains with a progress bar, then prints the validation's figures."""
    from errata.editing.retriever.training import Progress

    with _progress_bar() as bar:
        task = bar.add_task("training", total=1.0)

        def show(progress: Progress) -> None:
            line = f"step {progress.step:,}, loss {sum(progress.losses.values()):.2f}"
            if progress.validation is not None:
                line += f", validation {progress.validation.score:.3f}"
            bar.update(task, completed=progress.done, description=line)

        found = trainer.run(show)
    table = TextTable("validation", "")
    for name, value in found.figures().items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    console().print(table)
