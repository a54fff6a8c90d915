"""The `errata` command: global options, the list of commands, error output.

| module | commands |
|---|---|
| `box_cli` | run and check a system on this machine |
| `client_cli` | call a running system |
| `policy_cli` | review edits; the probe set |
| `canary_cli` | edits on a part of the requests first |
| `catalog_cli` | find edits; events; webhooks |
| `bulk_cli` | import, export and compare many edits |
| `backup_cli` | copy a log with its artifacts; make a new system from the copy |
| `log_cli` | list the log's entries; repair it |
| `serve_cli` | run one service |
| `model_cli` | prepare a model |
| `security_cli` | make credentials, check the audit log |
| `signing_cli` | keys that sign commits; verify a log without its services |
| `artifacts_cli` | look after the artifact store |
| `bench_cli`, `train_cli` | measure; train what lanes learn once |

Commands that only call a running system import neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from errata import (
    backup_cli,
    box_cli,
    bulk_cli,
    canary_cli,
    catalog_cli,
    client_cli,
    errors,
    model_cli,
    policy_cli,
    security_cli,
    signing_cli,
)
from errata.artifacts_cli import artifacts
from errata.bench_cli import bench
from errata.launch.output import line, quoted
from errata.launch.show_installation import version_lines
from errata.launch.terminal import console
from errata.log_cli import log
from errata.platform.settings import load_client_settings
from errata.platform.settings.sources import CONFIG_FILE_VARIABLE
from errata.serve_cli import serve
from errata.train_cli import train
from errata_client import ErrataError

_COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("up", box_cli.up),
    ("demo", box_cli.demo),
    ("doctor", box_cli.doctor),
    ("edit", client_cli.edit),
    ("ask", client_cli.ask),
    ("score", client_cli.score),
    ("status", client_cli.status),
    ("edits", client_cli.edits),
    ("find", catalog_cli.find),
    ("events", catalog_cli.events),
    ("revert", client_cli.revert),
    ("preview", policy_cli.preview),
    ("approve", policy_cli.approve),
    ("reject", policy_cli.reject),
    ("withdraw", policy_cli.withdraw),
    ("compact", client_cli.compact),
    ("lanes", client_cli.lanes),
    ("import", bulk_cli.import_),
    ("export", bulk_cli.export),
    ("diff", bulk_cli.diff),
    ("config", box_cli.config),
    ("serve", serve),
    ("health", client_cli.health),
    ("statistics", model_cli.statistics),
    ("plan", model_cli.plan),
    ("adapters", client_cli.adapters),
    ("demo-model", model_cli.demo_model),
    ("verify", signing_cli.verify),
    ("backup", backup_cli.backup),
    ("restore", backup_cli.restore),
)
# Commands whose target, timeout and author default to the section `client` of the settings.
_CLIENT_COMMANDS = (
    *("edit", "ask", "score", "status", "edits", "revert", "compact", "lanes"),
    *("preview", "approve", "reject", "withdraw"),
    *("import", "export", "diff", "find", "events"),
    "adapters",
)
_CANARY_COMMANDS = ("open", "set", "promote", "rollback", "list", "show")

app = typer.Typer(
    name="errata",
    help="Publish corrections to a running, replicated language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _name, _command in _COMMANDS:
    app.command(_name)(_command)
app.add_typer(log, name="log")
app.add_typer(policy_cli.probes, name="probes")
app.add_typer(canary_cli.canary, name="canary")
app.add_typer(catalog_cli.webhooks, name="webhooks")
app.add_typer(artifacts, name="artifacts")
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")
app.add_typer(model_cli.model, name="model")
app.add_typer(security_cli.certs, name="certs")
app.add_typer(security_cli.audit, name="audit")
app.add_typer(signing_cli.keys, name="keys")


def _print_versions(wanted: bool) -> None:
    if wanted:
        console().print(version_lines())
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="Print versions and exit."
        ),
    ] = False,
) -> None:
    """Publish corrections to a running, replicated language model."""
    if config is not None:
        os.environ[CONFIG_FILE_VARIABLE] = str(config)
    client = load_client_settings()
    given = {"target": client.target, "timeout": client.timeout_seconds, "author": client.author}
    values = {name: value for name, value in given.items() if value}
    context.default_map = dict.fromkeys(_CLIENT_COMMANDS, values) | {
        "log": {**values, "repair": {**values}},
        "probes": {"set": values, "show": values},
        "canary": dict.fromkeys(_CANARY_COMMANDS, values),
    }
    for name in ("token_file", "tls_ca", "tls_cert", "tls_key"):  # the SDK reads its variables
        if value := getattr(client, name):
            os.environ[f"ERRATA_{name.upper()}"] = value


def main() -> None:
    """Entry point of the `errata` command; prints errors that a user can act on as one message."""
    try:
        app()
    except (errors.ErrataError, ErrataError) as error:
        # Text copied from a message must contain no line breaks.
        console(stderr=True).print(_message(error), style="red", soft_wrap=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _message(error: errors.ErrataError | ErrataError) -> Text:
    """An error as one message.

    Errors of this process can have several lines, such as a service's last ones; what a server
    says has one.
    """
    reason = f" [{error.reason}]" if error.reason else ""
    text = f"error{reason}: {error.message}"
    return quoted(text) if isinstance(error, errors.StartupError) else line(text)


if __name__ == "__main__":
    main()
