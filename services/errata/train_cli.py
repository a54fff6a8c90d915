"""`errata train …`: makes what a lane learns once, before its first edit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from errata import demo
from errata.errors import InvalidRequestError

train = typer.Typer(help="Make what lanes learn once.", no_args_is_help=True)
_out = Console()


@train.callback()
def _train() -> None:
    """Makes what lanes learn once."""


@train.command()
def recipe(
    out: Annotated[Path, typer.Option(help="New folder; an interrupted training goes on.")],
    model: Annotated[
        str, typer.Option(help="The LLM: folder or hub id; the demo model if empty.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="File of training records; the demo corpus if left out.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="counterfact, zsre or rippleedits.")] = "counterfact",
    records: Annotated[str, typer.Option(help="Range of records to learn from, a:b.")] = "0:",
    encoder: Annotated[
        str, typer.Option(help="Folder or hub id; if empty, a small one is trained from scratch.")
    ] = "",
    retriever: Annotated[
        Path | None,
        typer.Option(help="Lane model whose retriever is taken over; only MLP_P is learned."),
    ] = None,
    preset: Annotated[str, typer.Option(help="errata, paper or code.")] = "errata",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of TrainingConfig, over the preset; repeatable."),
    ] = None,
    max_minutes: Annotated[
        float, typer.Option(help="The schedule ends with it; 0 for no limit.", min=0)
    ] = 0.0,
    threads: Annotated[int, typer.Option(help="Torch threads; 0 takes all cores.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
) -> None:
    """Trains a RECIPE lane model: encoder, MLPs and Knowledge Sentinel, for one LLM."""
    import torch

    from errata.editing.model.causal_lm import CausalLM
    from errata.editing.retriever.lane_model import LaneModel
    from errata.editing.retriever.start import new_lane_model
    from errata.editing.retriever.training import Progress as Stand
    from errata.editing.retriever.training import Trainer
    from errata.evaluation.data import load
    from errata.evaluation.data.examples import as_examples
    from errata.evaluation.edit.plan import parse_range
    from errata.launch.demo_examples import demo_examples

    if bool(model) != (data is not None):
        raise InvalidRequestError(
            "give --model and --data, or neither for the demo's.", field="data"
        )
    config = _config(preset, [*(set_ or []), *(["stages=prompts"] if retriever else [])])
    held_out = None
    if data is None:
        examples, held_out = demo_examples(demo.load_corpus(), config.num_validation)
    else:
        start, end = parse_range(records)
        examples = as_examples(load(dataset, data)[start:end])
    if threads:
        torch.set_num_threads(threads)
    llm = CausalLM.load(model or demo.model_path(), device=device)
    known = None if retriever is None else LaneModel.load(retriever, llm)
    lane_model = new_lane_model(llm, encoder or None, config, known)
    seconds = 60 * max_minutes if max_minutes else math.inf
    trainer = Trainer(
        llm, lane_model, examples, config, out, held_out=held_out, max_seconds=seconds
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_out) as bar:
        task = bar.add_task("training", total=1.0)

        def show(stand: Stand) -> None:
            told = f"step {stand.step:,}, loss {sum(stand.losses.values()):.2f}"
            if stand.validation is not None:
                told += f", validation {stand.validation.score:.3f}"
            bar.update(task, completed=stand.done, description=told)

        found = trainer.run(show)
    table = Table("validation", "")
    for name, value in found.figures().items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    _out.print(table)
    _out.print(f"lane model in {out}; its log is {out / 'training.csv'}")


def _config(preset: str, settings: list[str]) -> Any:
    from errata.editing.retriever.training_config import PRESETS, TrainingConfig
    from errata.evaluation.edit.plan import parse_values
    from errata.writer.lanes import problems_in

    if preset not in PRESETS:
        raise InvalidRequestError(
            f"no preset is called {preset!r}; choose one of {', '.join(PRESETS)}.", field="preset"
        )
    values = {**PRESETS[preset], **parse_values(settings)}
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidRequestError(f"--set: {problems_in(error)}.", field="set") from error
