"""Options that several commands share."""

from __future__ import annotations

import getpass
import os
from typing import Annotated, Literal

import typer

DEFAULT_TARGET = "127.0.0.1:7700"


def login_name() -> str:
    """The login name; the user's number where the system has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


TargetOption = Annotated[
    str, typer.Option("--target", help="The gateway's host:port; default from ERRATA_TARGET.")
]
TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait; default from ERRATA_TIMEOUT.")]
AuthorOption = Annotated[
    str,
    typer.Option(
        default_factory=login_name,
        show_default="the login name",
        help="Author of the change; default from ERRATA_AUTHOR.",
    ),
]
NamespaceOption = Annotated[
    str, typer.Option(help="Namespace that the edit belongs to; the default one if empty.")
]
ReadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--namespace",
        help="Namespace to read; repeatable. `default` is the default one, `*` all of them.",
    ),
]
CanaryOption = Annotated[
    str,
    typer.Option(
        help="Open canary that the edit belongs to, of the same lane; until it ends, only its "
        "requests read the edit. The namespace is the canary's."
    ),
]
KeyOption = Annotated[
    str,
    typer.Option(
        help="Decides which open canaries the request is in; one key is always in the same ones."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StateName = Literal[
    "proposed",
    "scheduled",
    "requested",
    "fitting",
    "committed",
    "rejected",
    "reverted",
    "withdrawn",
]
DeviceOption = Annotated[str, typer.Option(help="Torch device.")]
