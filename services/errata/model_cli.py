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
    text: Annotated[Path | None, typer.Option(help="Plain text, a paragraph a line.")] = None,
    lanes_file: Annotated[Path | None, typer.Option(help="Lanes that need them.")] = None,
) -> None:
    """Computes what the lanes' fits need of a model (AdaPLE: FFN key covariances), once."""
    from errata.launch.statistics import compute_statistics

    flags = {
        "model": {"path": model or None},
        "writer": {"statistics_text": text, "lanes_file": lanes_file},
    }
    compute_statistics(load_settings(flags), console())


def demo_model(
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
) -> None:
    """Trains the demo model from the demo corpus; the shipped one came from this command."""
    from errata.launch.demo_model import build_demo_model

    build_demo_model(output, seed, console())
