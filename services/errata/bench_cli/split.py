"""`errata bench split`: training records without some relations and wordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.launch.terminal import console


def split(
    data: Annotated[Path, typer.Option(help="Training records.")],
    out: Annotated[Path, typer.Option(help="Folder for train.json and split.json.")],
    records: Annotated[
        Path | None, typer.Option(help="Editing records: their relations get the same names.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="counterfact or zsre.")] = "counterfact",
    withhold: Annotated[
        float,
        typer.Option(
            help="Share of relations, and of wordings in each other relation.", min=0.0, max=0.9
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Chooses what is withheld.", min=0)] = 0,
) -> None:
    """Withholds relations and wordings from meta-training, so that a test can ask for them."""
    from errata.evaluation.data.training_records import write_split

    found = write_split(data, records, out, dataset=dataset, share=withhold, seed=seed)
    away, all_of_them = found["withheld_relations"], found["relations"]
    console().print(
        f"{found['num_kept']:,} of {found['num_records']:,} records are left; withheld are "
        f"{len(away)} of {len(all_of_them)} relations, and {len(found['withheld_wordings'])} "
        f"wordings of the others. Written to {out}."
    )
