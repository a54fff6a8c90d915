"""`errata demo-model`: trains the demo model and says what it knows."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from errata.demo import recall, train
from errata.editing.causal_lm import CausalLM
from errata.errors import StartupError


def build_demo_model(output: Path, seed: int, console: Console) -> None:
    """Trains into a new folder and measures recall by relation and phrasing.

    Raises:
        StartupError: the folder exists and is not empty; nothing was overwritten.
    """
    if output.exists() and any(output.iterdir()):
        raise StartupError(f"{output} is not empty; give a new folder.")
    with Progress(console=console) as progress:
        task = progress.add_task("training")
        report = train(
            output,
            seed=seed,
            on_progress=lambda step, total, loss: progress.update(
                task, completed=step, total=total, description=f"training, loss {loss:.3f}"
            ),
        )
    model = CausalLM.load(output)
    table = Table(title=f"{report.num_parameters:,} parameters, {report.seconds:.0f} s")
    for column in ("relation", "phrasing", "answered"):
        table.add_column(column)
    for row in recall(model.model, model.tokenizer).rows:
        table.add_row(row.relation, row.phrasing, f"{row.share:.3f}")
    console.print(table)
