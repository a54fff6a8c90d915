"""`errata certs` and `errata audit`: credentials for trials, and the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.errors import DataLossError, NotFoundError
from errata.launch.output import print_document
from errata.launch.terminal import console

certs = typer.Typer(help="A development CA: certificates and tokens.", no_args_is_help=True)
audit = typer.Typer(help="The audit log.", no_args_is_help=True)

_FolderArgument = Annotated[Path, typer.Argument(help="Folder of the development CA.")]


@certs.command("make")
def make(
    folder: _FolderArgument,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of the services; repeatable.")
    ] = None,
    trust_domain: Annotated[str, typer.Option(help="As ERRATA_SECURITY__TRUST_DOMAIN.")] = "errata",
) -> None:
    """Makes a CA, and certificates of all services; run again, it renews the certificates."""
    from errata.launch.certs import NAMES, make_ca

    make_ca(folder, host or (), trust_domain)
    out = console()
    names = ", ".join(NAMES)
    out.print(f"{folder}: ca.pem, jwks.json, and NAME.pem with NAME.key for {names}")
    out.print("Not for production: whoever reads the folder can do everything.")


@certs.command("token")
def token(
    folder: _FolderArgument,
    subject: Annotated[str, typer.Argument(help="Who gets it, such as alice@example.org.")],
    role: Annotated[
        list[str], typer.Option(help="reader, editor, approver or operator; repeatable.")
    ],
    lane: Annotated[
        list[str] | None, typer.Option(help="A lane that he may use; all if none is given.")
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="A namespace that he may use; all if none is given; repeatable."),
    ] = None,
    hours: Annotated[float, typer.Option(help="Until it expires.", min=0.001)] = 12.0,
) -> None:
    """Prints a token, for ERRATA_TOKEN or a file that ERRATA_TOKEN_FILE names."""
    from errata.launch.certs import DevelopmentCa, make_token

    made = make_token(DevelopmentCa(folder), subject, role, lane, namespaces=namespace, hours=hours)
    print_document(made)


@audit.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="The newest file, such as audit/writer.jsonl.")],
) -> None:
    """Checks the chain of an audit log over all its files."""
    from errata.platform.security.audit import verify as check

    try:
        sound, problem = check(file)
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror}.") from error
    if problem is not None:
        raise DataLossError(
            f"{problem.file.name}, line {problem.line}: {problem.what}; the {sound:,} lines before "
            "are sound."
        )
    if not sound:
        raise NotFoundError(f"there is no audit log at {file}.")
    console().print(f"{sound:,} lines, all sound")
