"""`errata backup` and `errata restore`: copies a log with its artifacts, and brings it back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from errata.cli_options import JsonOption
from errata.errors import NotFoundError
from errata.launch.output import line, lines, print_result
from errata.platform.security.active import Security, configure_security
from errata.platform.settings import load_settings
from errata.platform.telemetry import configure_logging


def backup(
    destination: Annotated[
        str, typer.Argument(help="Folder or fsspec URL; an earlier backup there is continued.")
    ],
    address: Annotated[
        str, typer.Option("--log", help="The log service's host:port; default from the settings.")
    ] = "",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Data of an `errata up` that is not running; starts its log meanwhile."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Also read what is there, and copy damaged files again."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copies the log and its artifacts while everything runs, up to the log's present head.

    It speaks to the log service itself. Where services know each other by certificates, it needs
    a certificate that may read the log: security.tls_cert_file and the like.
    """
    from errata.launch.backup.create import Backup, back_up
    from errata.launch.backup.folder import BackupFolder
    from errata.launch.repair import running_log
    from errata.log.witness import read_witness

    settings = load_settings({"data_dir": data_dir})
    configure_logging(settings.log_level, settings.log_format, "backup")
    if data_dir is not None and read_witness(settings.log.witness_path) is None:
        raise NotFoundError(f"{data_dir} holds no log; name the data_dir of an `errata up`.")
    configure_security(Security(settings.security))
    max_bytes = settings.artifacts.max_bytes
    folder = BackupFolder(destination, max_artifact_bytes=max_bytes)
    with running_log(settings, data_dir, address) as at:
        made = asyncio.run(back_up(at, folder, max_artifact_bytes=max_bytes, thorough=check))

    def render(made: Backup) -> RenderableType:
        return lines(
            [
                line(f"{made.where}: log {made.log_id} up to entry {made.head_seq:,}"),
                line(
                    f"copied now: {made.new_entries:,} entries, {made.new_artifacts:,} artifacts, "
                    f"{made.new_bytes:,} bytes in {made.seconds:.1f} s"
                ),
            ]
        )

    print_result(as_json, made, render)


def restore(
    source: Annotated[str, typer.Argument(help="Folder or URL that `errata backup` wrote.")],
    data_dir: Annotated[Path, typer.Option(help="Data folder of the new system; must be empty.")],
    at: Annotated[
        int | None, typer.Option(help="Last log position to restore; the newest by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Makes a new, empty system from a backup; `errata up --data-dir` starts it.

    The restored log has a new identity: replicas of the copied log refuse it. The whole backup is
    verified before anything is written.
    """
    from errata.launch.backup.folder import BackupFolder
    from errata.launch.backup.restore import Restored
    from errata.launch.backup.restore import restore as run
    from errata.launch.checks import box_key

    settings = load_settings({"data_dir": data_dir})
    configure_logging(settings.log_level, settings.log_format, "restore")
    folder = BackupFolder(source, max_artifact_bytes=settings.artifacts.max_bytes)
    made = run(folder, settings, at)

    def render(made: Restored) -> RenderableType:
        said = [
            line(
                f"restored {made.head_seq:,} entries and {made.num_artifacts:,} artifacts of "
                f"log {made.from_log_id} as log {made.log_id} in {made.seconds:.1f} s"
            )
        ]
        if made.trusted_keys:
            said.append(
                line(
                    f"commits are signed: put the private key {' or '.join(made.trusted_keys)} at "
                    f"{box_key(settings)}, or set writer.signing_key_file"
                )
            )
        return lines([*said, line(f"start it: errata up --data-dir {made.data_dir}")])

    print_result(as_json, made, render)
