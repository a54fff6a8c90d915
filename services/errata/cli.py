"""The command line of Errata: run the system, edit, ask, look, measure.

Commands that only talk to a running system import neither torch nor Ray.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from errata import box_cli, errors
from errata.bench_cli import bench
from errata.launch import show
from errata.launch.terminal import console
from errata.platform.settings import Settings, load_client_settings, load_settings
from errata.platform.settings import report as settings_report
from errata.platform.settings.sources import CONFIG_FILE_VARIABLE
from errata.platform.telemetry import configure_logging
from errata.platform.tracing import configure_tracing
from errata.train_cli import train
from errata_client import Client, EditSpec, EditState, ErrataError, Sampling

app = typer.Typer(
    name="errata",
    help="Publish corrections to a running, replicated language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(box_cli.up)
app.command()(box_cli.demo)
app.command()(box_cli.doctor)
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")


def login_name() -> str:
    """Who is at the terminal; a number where the system knows no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


Target = Annotated[
    str, typer.Option("--target", help="host:port of the gateway; ERRATA_TARGET sets it, too.")
]
Timeout = Annotated[float, typer.Option(help="Seconds to wait; ERRATA_TIMEOUT sets them, too.")]
Author = Annotated[
    str,
    typer.Option(
        default_factory=login_name,
        show_default="the login name",
        help="Who asks; ERRATA_AUTHOR sets it, too.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Separator = Annotated[
    str | None,
    typer.Option(
        help="White space, or nothing, between prompt and target; \\n is a line break. Left out, "
        "the prompt's end and its script decide."
    ),
]
MinSeq = Annotated[int | None, typer.Option(help="Never answer from an older position.")]
StateName = Literal["requested", "fitting", "committed", "rejected", "reverted"]
DEFAULT_TARGET = "127.0.0.1:7700"
# Commands that ask a running system, and take what the section `client` of the settings says.
_ASKING = (
    *("edit", "ask", "score", "status", "log", "edits", "revert", "compact", "lanes"),
    "adapters",
)


def _tell_versions(wanted: bool) -> None:
    if wanted:
        console().print(show.version_lines())
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_versions, is_eager=True, help="Print versions and end."
        ),
    ] = False,
) -> None:
    """Publish corrections to a running, replicated language model."""
    if config is not None:
        os.environ[CONFIG_FILE_VARIABLE] = str(config)
    client = load_client_settings()
    given = {"target": client.target, "timeout": client.timeout_seconds, "author": client.author}
    values = {name: value for name, value in given.items() if value}
    context.default_map = dict.fromkeys(_ASKING, values)


@app.command()
def edit(
    prompt: str,
    target_text: Annotated[str, typer.Argument(metavar="TARGET_TEXT", help="The right answer.")],
    subject: Annotated[str, typer.Option(help="Whom or what the fact is about.")] = "",
    rephrase: Annotated[list[str] | None, typer.Option(help="Checked, too; repeatable.")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Must stay; repeatable.")] = None,
    source: Annotated[str, typer.Option(help="Where the correction comes from.")] = "",
    separator: Separator = None,
    lane: Annotated[str, typer.Option(help="lanes/{lane}; the default lane if empty.")] = "",
    *,
    author: Author,
    wait: Annotated[bool, typer.Option(help="Wait until it is in effect.")] = False,
    timeout: Timeout = 120.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Submits a correction."""
    spec = EditSpec(
        prompt,
        target_text,
        subject,
        tuple(rephrase or ()),
        tuple(probe or ()),
        source,
        _typed(separator),
    )
    with Client(target, timeout=timeout) as client:
        (submitted,) = client.submit_edits([spec], lane=lane, author=author)
        if wait:
            (submitted,) = client.wait_edits([submitted.name])
    _show(as_json, submitted, show.edit_lines)
    if wait and submitted.state is not EditState.COMMITTED:
        raise typer.Exit(1)


@app.command()
def ask(
    prompt: str,
    min_seq: MinSeq = None,
    max_tokens: Annotated[int, typer.Option(help="Length limit.")] = 16,
    stop: Annotated[list[str] | None, typer.Option(help="End before this; repeatable.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Likeliest tokens up to this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="So many likeliest tokens; 0 is all.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    everywhere: Annotated[bool, typer.Option(help="Ask every replica.")] = False,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Lets the edited model continue a prompt."""
    options: dict[str, Any] = {
        "min_seq": min_seq,
        "max_tokens": max_tokens,
        "stop": stop or (),
        "sampling": Sampling(temperature, top_p, top_k, seed) if temperature else None,
    }
    with Client(target, timeout=timeout) as client:
        if everywhere:
            answers = client.generate_everywhere(prompt, **options)
            _show(as_json, answers, lambda found: show.everywhere_table(prompt, found))
        else:
            answer = client.generate(prompt, **options)
            _show(as_json, answer, lambda found: show.answer_lines(prompt, found))


@app.command()
def score(
    prompt: str,
    continuation: str,
    min_seq: MinSeq = None,
    separator: Separator = None,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Shows how likely the model finds a continuation, token by token."""
    with Client(target, timeout=timeout) as client:
        scored = client.score(prompt, continuation, min_seq=min_seq, separator=_typed(separator))
    _show(as_json, scored, show.score_table)


@app.command()
def status(
    watch: Annotated[bool, typer.Option(help="Look again every second, until Ctrl-C.")] = False,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Shows replicas, positions, digests and lag; fails if a replica disagrees."""
    from errata.launch.status import look, watch_status

    with Client(target, timeout=timeout) as client:
        if watch:
            watch_status(client, console())
            return
        found = look(client)
    _show(as_json, found, lambda status: status.lines())
    if not found.agrees:
        raise typer.Exit(1)


@app.command()
def log(
    from_seq: Annotated[int, typer.Option(help="First position.")] = 1,
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Lists the log's entries."""
    with Client(target, timeout=timeout) as client:
        entries = list(client.entries(from_seq))
    _show(as_json, entries, show.entry_table)


@app.command()
def edits(
    state: Annotated[StateName | None, typer.Option(help="Only those in this state.")] = None,
    lane: Annotated[str, typer.Option(help="Only those of this lane; lanes/{lane}.")] = "",
    asked_by: Annotated[str, typer.Option("--author", help="Only those of this author.")] = "",
    since: Annotated[
        datetime | None, typer.Option(help="Only those asked for from then on.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Only those asked for before.")] = None,
    contains: Annotated[
        str, typer.Option(help="Only those with this in prompt, target, subject or source.")
    ] = "",
    timeout: Timeout = 30.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Lists edits: where each stands, who asked for it and when, and why it was rejected."""
    with Client(target, timeout=timeout) as client:
        found = client.list_edits(
            EditState[state.upper()] if state else None,
            lane=lane,
            author=asked_by,
            since=since,
            until=until,
            contains=contains,
        )
        _show(as_json, list(found), show.edit_list)


@app.command()
def revert(
    names: Annotated[list[str], typer.Argument(help="Such as edits/12-0.")],
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    *,
    author: Author,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Takes committed edits back."""
    with Client(target, timeout=timeout) as client:
        reversal = client.revert(names, comment=comment, author=author)
    _show(as_json, reversal, show.reversal_lines)


@app.command()
def compact(
    lane: Annotated[str, typer.Argument(help="Such as lanes/main.")],
    experts: Annotated[
        int, typer.Option(help="Among which edits are shared out; 0 for the method's own number.")
    ] = 0,
    max_loss: Annotated[
        float, typer.Option(help="How much lower reliability and locality may be afterwards.")
    ] = 0.02,
    *,
    author: Author,
    timeout: Timeout = 3_600.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Learns a lane anew from its edits in force, checks it, and puts it in place."""
    with Client(target, timeout=timeout) as client:
        made = client.compact(lane, num_experts=experts, max_loss=max_loss, author=author)
        (now,) = (item for item in client.lanes() if item.name == lane)
    _show(as_json, made, lambda _: show.compaction_lines(made, now))


@app.command()
def lanes(
    lane: Annotated[str, typer.Argument(help="Show this one's configuration.")] = "",
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Lists the lanes that edits can go to."""
    with Client(target, timeout=timeout) as client:
        found = client.lanes()
    if not lane:
        _show(as_json, found, show.lane_table)
    elif one := next((item for item in found if item.name == lane), None):
        _show(as_json, one, show.lane_config_table)
    else:
        names = ", ".join(item.name for item in found)
        raise errors.UnknownLaneError(f"there is no lane {lane!r}; there are {names}.")


@app.command()
def config(as_json: AsJson = False) -> None:
    """Prints every setting with its value, its origin and what it is."""
    _show(as_json, settings_report.report(), show.config_table)


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="log, writer, retrieval, workers or gateway.")],
) -> None:
    """Runs one service in the foreground; settings come from environment and file."""
    from errata.platform.metrics import note_service

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format, service)
    note_service(service)
    if service not in ("gateway", "workers"):  # those start Ray first: it forks
        configure_tracing(settings.tracing, service)
    asyncio.run(_service(service, settings))


async def _service(name: str, settings: Settings) -> None:
    from errata.platform.server import run_until_signalled

    match name:
        case "log":
            from errata.artifacts.store import ArtifactStore
            from errata.log.main import run

            store = ArtifactStore(settings.artifacts_url)
            await run_until_signalled(lambda stop: run(settings.log, store, stop=stop))
        case "writer":
            from errata.writer.main import serve as serve_writer

            await run_until_signalled(lambda stop: serve_writer(settings, stop))
        case "retrieval":
            from errata.retrieval.main import serve as serve_retrieval

            await run_until_signalled(lambda stop: serve_retrieval(settings, stop))
        case "gateway":
            from errata.gateway.main import serve_gateway

            await run_until_signalled(lambda stop: serve_gateway(settings, stop))
        case "workers":
            from errata.gateway.main import serve_workers

            await run_until_signalled(lambda stop: serve_workers(settings, stop))
        case _:
            raise errors.StartupError(
                f"there is no service {name!r}; choose log, writer, retrieval, workers or gateway."
            )


@app.command()
def health(
    address: Annotated[str, typer.Argument(help="host:port of any service.")],
    timeout: Timeout = 5.0,
) -> None:
    """Says whether a service is healthy, by its gRPC health; fails if it is not."""
    from errata.launch.status import health_of

    state = health_of(address, timeout)
    told = f"{state}; nothing that speaks gRPC answers" if state == "UNAVAILABLE" else state
    console().print(f"{address}: {told}")
    if state != "SERVING":
        raise typer.Exit(1)


@app.command()
def statistics(
    model: Annotated[
        str, typer.Option(help="Model folder or hub id; the demo model if empty.")
    ] = "",
    text: Annotated[Path | None, typer.Option(help="Plain text, a paragraph a line.")] = None,
    lanes_file: Annotated[Path | None, typer.Option(help="Lanes that need them.")] = None,
) -> None:
    """Computes what the lanes' fits need of a model (AdaPLE: FFN key covariances), once."""
    from errata.launch.statistics import compute_statistics

    flags = {
        "model": {"path": model or None},
        "writer": {"statistics_text": text, "lanes_file": lanes_file},
    }
    compute_statistics(load_settings(flags), console())


@app.command()
def adapters(
    lane: Annotated[str, typer.Argument(help="An ELDER lane, such as lanes/main.")],
    out: Annotated[Path, typer.Argument(help="Gets one folder for each expert.")],
    model: Annotated[str, typer.Option(help="The base model; the demo model if empty.")] = "",
    target: Target = DEFAULT_TARGET,
) -> None:
    """Writes the experts of an ELDER lane as PEFT adapters."""
    from errata.launch.adapters import export_adapters

    settings = load_settings({"model": {"path": model or None}})
    export_adapters(settings, target, lane, out, console())


@app.command("demo-model")
def demo_model(
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
) -> None:
    """Trains the demo model from the demo corpus; the shipped one came from this command."""
    from errata.launch.demo_model import build_demo_model

    build_demo_model(output, seed, console())


def _typed(separator: str | None) -> str | None:
    """White space as it is typed in a shell."""
    return None if separator is None else separator.replace("\\n", "\n").replace("\\t", "\t")


def _show(as_json: bool, value: Any, render: Callable[[Any], Any]) -> None:
    if as_json:
        show.print_json(console(), value)
    else:
        console().print(render(value))


def main() -> None:
    """Entry point of the `errata` command; errors that a user can act on are told in words."""
    try:
        app()
    except (errors.ErrataError, ErrataError) as error:
        reason = f" [{error.reason}]" if error.reason else ""
        console(stderr=True).print(
            f"error{reason}: {error.message}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,  # what is copied out of a message has no line breaks
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
