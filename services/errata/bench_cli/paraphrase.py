"""`errata bench paraphrase`: records with paraphrases that an LLM makes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli_options import DeviceOption
from errata.launch.terminal import console


def paraphrase(
    data: Annotated[Path, typer.Option(help="Records.")],
    model: Annotated[str, typer.Option(help="LLM that paraphrases: folder or hub id.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder for data.json and paraphrases.json; an interrupted run resumes."),
    ],
    dataset: Annotated[str, typer.Option(help="counterfact or zsre.")] = "counterfact",
    records: Annotated[str, typer.Option(help="Range of records, a:b.")] = "0:",
    samples: Annotated[int, typer.Option(help="Questions sampled for a record.", min=1)] = 4,
    keep: Annotated[int, typer.Option(help="Most paraphrases of a record.", min=1)] = 2,
    margin: Annotated[
        float,
        typer.Option(
            help="Nats by which a question must speak for the right answer more than for others."
        ),
    ] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Chooses samples and notes.", min=0)] = 0,
    only: Annotated[
        bool,
        typer.Option(
            "--only", help="Paraphrases replace the records' rephrases; leave out records without."
        ),
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Adds questions by an LLM to records, kept where they speak for the right answer."""
    from errata.editing.model.causal_lm import CausalLM
    from errata.evaluation.edit.plan import parse_range
    from errata.evaluation.paraphrased_data import ParaphrasedData, write_paraphrases
    from errata.evaluation.paraphrases import Paraphrasing
    from errata.launch.progress import bars

    settings = Paraphrasing(samples, keep, margin, temperature, seed)
    plan = ParaphrasedData(data, dataset, parse_range(records), out, only, settings)
    with bars(console()) as progress:
        task = progress.add_task("records", total=None)
        found = write_paraphrases(
            plan,
            lambda: CausalLM.load(model, device=device),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    audit = found["audit"]
    console().print(
        f"{found['num_kept']:,} paraphrases of {found['num_with_any']:,} of "
        f"{found['num_records']:,} records, of {found['num_asked']:,} questions about their "
        f"subjects. Of the file's own rephrases, {_percent(audit['own'])} would be kept; of "
        f"prompts of other relations, {_percent(audit['others'])}. Written to {out}."
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
