"""Commands that need a model but no running system: `errata statistics`, `errata demo-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.launch.terminal import console
from errata.platform.settings import load_settings


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


def demo_model(
    output: Annotated[Path, typer.Argument(help="New folder for the model.")],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Trains the demo model on the demo corpus, as the shipped one was trained."""
    from errata.launch.demo_model import build_demo_model

    build_demo_model(output, seed, console())
