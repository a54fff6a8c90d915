"""`errata demo-model`: trains the demo model and measures what it knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.progress import Progress

from errata.demo.recall import recall
from errata.demo.train import train_demo_model
from errata.editing.model.causal_lm import CausalLM
from errata.errors import StartupError
from errata.launch.output import TextTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_demo_model(output: Path, seed: int, console: Console) -> None:
    """Trains into a new folder and measures recall by relation and phrasing.

    Raises:
        StartupError: the folder exists and is not empty; nothing was overwritten.
    """
    if output.exists() and any(output.iterdir()):
        raise StartupError(f"{output} is not empty; give a new folder.")
    with Progress(console=console) as progress:
        task = progress.add_task("training")
        report = train_demo_model(
            output,
            seed=seed,
            on_progress=lambda step, total, loss: progress.update(
                task, completed=step, total=total, description=f"training, loss {loss:.3f}"
            ),
        )
    model = CausalLM.load(output)
    known = recall(cast("PreTrainedModel", model.model), model.tokenizer)
    table = TextTable(title=f"{report.num_parameters:,} parameters, {report.seconds:.0f} s")
    table.add_column("relation")
    table.add_column("share of facts answered, by phrasing")
    for relation, shares in known.by_phrasing.items():
        table.add_row(relation, "  ".join(f"{share:.2f}" for share in shares))
    console.print(table)
    console.print(f"answered in at least three phrasings: {known.in_three_phrasings:.3f}")
