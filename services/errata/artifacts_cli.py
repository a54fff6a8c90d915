"""`errata artifacts`: the artifact store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from errata.cli_options import JsonOption
from errata.launch.output import print_result
from errata.launch.terminal import console
from errata.platform.settings import load_settings
from errata.platform.telemetry import configure_logging

artifacts = typer.Typer(help="Look after the artifact store.", no_args_is_help=True)


@artifacts.callback()
def _artifacts() -> None:
    """Looks after the artifact store."""


@artifacts.command("gc")
def collect_garbage(
    redis_url: Annotated[str | None, typer.Option(help="URL of the Redis with the log.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of an `errata up`; read if no Redis is named.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--artifacts", help="Artifact store: folder or URL.")
    ] = None,
    min_age: Annotated[
        str, typer.Option(help="Leave younger files alone; such as 36h or 2d.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing.")] = False,
    drop_archived_before: Annotated[
        int | None,
        typer.Option(
            help="Also remove what only entries before this position name; they must be archived "
            "and covered by a snapshot."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Removes artifacts that neither the log nor its snapshots nor its archive name.

    Services may run. The store must belong to this log alone: what only another log names is
    removed.
    """
    from errata.launch.garbage import age_of, collected, collection_lines

    def confirm(num_files: int) -> None:
        text = (
            f"{num_files:,} artifacts of entries before {drop_archived_before} will be lost: the "
            "model as it was before that entry cannot be made again, and `errata verify` will "
            "report them as missing. Go on?"
        )
        if not yes and not typer.confirm(text, err=True):
            raise typer.Abort

    flags = {
        "data_dir": data_dir,
        "log": {"redis_url": redis_url},
        "artifacts": {"url": store},
    }
    settings = load_settings(flags)
    configure_logging(settings.log_level, settings.log_format, "artifacts")
    found = asyncio.run(
        collected(settings, age_of(min_age), drop_archived_before, confirm, dry_run=dry_run)
    )
    print_result(as_json, found, collection_lines)
    if found.lost and not found.dry_run:
        console(stderr=True).print("keep a backup of the store from before, for audits")
