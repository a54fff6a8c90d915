"""`errata keys` and `errata verify`: the keys that sign commits, and a check of a whole log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from errata.cli_options import JsonOption
from errata.launch.output import line, lines, print_result
from errata.platform.settings import load_settings
from errata.platform.telemetry import configure_logging

keys = typer.Typer(help="Make and show the keys that sign commits.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="PEM file.")]


@dataclass(frozen=True, slots=True)
class ShownKey:
    """What may be told about a key.

    Attributes:
        key_id: as entries and trusted_keys_file name it.
        fingerprint: SHA-256 of the raw public key; trusted_keys_file may name it instead.
        public_key: 32 bytes, hex.
    """

    key_id: str
    fingerprint: str
    public_key: str


@keys.callback()
def _keys() -> None:
    """Makes and shows the keys that sign commits."""


@keys.command("new")
def new(file: KeyFile, as_json: JsonOption = False) -> None:
    """Makes a private key in a new file that only its owner can read."""
    from errata.log.signing.keys import SigningKey

    key = SigningKey.generate()
    key.write(file)
    print_result(as_json, _shown(key.public_key), _lines)


@keys.command("show")
def show(file: KeyFile, as_json: JsonOption = False) -> None:
    """Shows id and public key of a private or public key."""
    from errata.log.signing.keys import read_public_key

    print_result(as_json, _shown(read_public_key(file)), _lines)


def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Entries that --export wrote.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="URL of the Redis with the log.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of an `errata up`; read if no Redis is named.")
    ] = None,
    artifacts: Annotated[str | None, typer.Option(help="Artifact store: folder or URL.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Also write the entries that were read to a new file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Checks a whole log without its services: chain, signatures and artifacts."""
    from errata.launch.verify.report import verification_table
    from errata.launch.verify.run import verify as run

    flags = {
        "data_dir": data_dir,
        "log": {"redis_url": redis_url},
        "artifacts": {"url": artifacts},
    }
    settings = load_settings(flags)
    configure_logging(settings.log_level, settings.log_format, "verify")
    from_box = "redis_url" not in settings.log.model_fields_set
    found = asyncio.run(run(settings, file=file, from_box=from_box, export=export))
    print_result(as_json, found, verification_table)
    if not found.ok:
        raise typer.Exit(1)


def _shown(public_key: bytes) -> ShownKey:
    from errata.log.signing.keys import fingerprint_of, key_id_of

    return ShownKey(key_id_of(public_key), fingerprint_of(public_key), public_key.hex())


def _lines(key: ShownKey) -> RenderableType:
    return lines(
        [
            line(f"key id       {key.key_id}"),
            line(f"fingerprint  {key.fingerprint}"),
            line(f"public key   {key.public_key}"),
        ]
    )
