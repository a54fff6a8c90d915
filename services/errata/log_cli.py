"""`errata log`: lists the log's entries; `errata log repair` voids one that cannot be applied."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from errata.cli_options import DEFAULT_TARGET, AuthorOption, JsonOption, TargetOption, TimeoutOption
from errata.launch import show
from errata.launch.output import print_result
from errata.launch.terminal import console
from errata.platform.security.active import Security, configure_security
from errata.platform.settings import load_settings
from errata_client import Client

log = typer.Typer(invoke_without_command=True)


@log.callback()
def entries(
    context: typer.Context,
    from_seq: Annotated[int, typer.Option(help="First position to list.")] = 1,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Lists the log's entries."""
    if context.invoked_subcommand is not None:
        return
    with Client(target, timeout=timeout) as client:
        found = list(client.entries(from_seq))
    print_result(as_json, found, show.entry_table)


@log.command()
def repair(
    seq: Annotated[int, typer.Option(help="Position of the entry that cannot be applied.")],
    reason: Annotated[str, typer.Option(help="Why it is voided; kept in the log.")],
    *,
    author: AuthorOption,
    address: Annotated[
        str, typer.Option("--log", help="The log service's host:port; default from the settings.")
    ] = "",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Data of an `errata up` that is not running; starts its log meanwhile."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Voids an entry that no reader can apply, so that every reader skips it.

    It speaks to the log service itself and takes the writer's epoch: a running writer ends, and its
    supervisor starts it again. Entries that can be applied are refused. Where services know each
    other by certificates, it needs the writer's: security.tls_cert_file and the like.
    """
    from errata.launch.repair import repair_entry, running_log

    def confirm(problem: str) -> None:
        text = f"Entry {seq}: {problem} Void it? A running writer ends and must start again."
        if not yes and not typer.confirm(text, err=True):
            raise typer.Abort

    settings = load_settings({"data_dir": data_dir})
    configure_security(Security(settings.security))
    with running_log(settings, data_dir, address) as at:
        voided_by = asyncio.run(repair_entry(at, seq, reason, author, confirm))
    text = f"entry {seq} is voided by entry {voided_by}; start what ended"
    console().print(text, markup=False, highlight=False, soft_wrap=True)
