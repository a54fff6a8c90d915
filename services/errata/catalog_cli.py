"""Commands on the catalog: edits found by text, events, and a test of a webhook's target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from errata.cli_options import (
    DEFAULT_TARGET,
    JsonOption,
    StateName,
    TargetOption,
    TimeoutOption,
)
from errata.launch.output import line, print_json_line, print_result
from errata.launch.show_catalog import event_line, found_list
from errata.launch.terminal import console
from errata_client import Client, EditState, Event, UnavailableError

_RETRY_SECONDS = 1.0

webhooks = typer.Typer(help="Servers that get events.", no_args_is_help=True)


def find(
    text: Annotated[
        list[str] | None,
        typer.Argument(help='Words to find, all of them; "several words" in quotes, or word*.'),
    ] = None,
    state: Annotated[StateName | None, typer.Option(help="Only edits in this state.")] = None,
    asked_by: Annotated[str, typer.Option("--author", help="Only edits of this author.")] = "",
    lane: Annotated[str, typer.Option(help="Only edits of this lane, as lanes/{lane}.")] = "",
    method: Annotated[str, typer.Option(help="Only edits of lanes with this method.")] = "",
    subject: Annotated[str, typer.Option(help="Only edits with this subject.")] = "",
    since: Annotated[
        datetime | None, typer.Option(help="Only edits requested at this time or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only edits requested before this time.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Only edits of this namespace; `default` is the default one.")
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Newest first instead of best match first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most edits that are shown.")] = 20,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Finds edits by words in prompt, subject, target, rephrases, source and comments."""
    with Client(target, timeout=timeout) as client:
        found = client.find_edits(
            " ".join(text or ()),
            states=[EditState[state.upper()]] if state else (),
            lane=lane,
            author=asked_by,
            method=method,
            subject=subject,
            since=since,
            until=until,
            namespace=namespace,
            newest=newest,
            limit=limit,
        )
        print_result(as_json, list(found), found_list)


def events(
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for more events, until Ctrl-C.")
    ] = False,
    from_seq: Annotated[
        int | None,
        typer.Option("--from", min=1, help="First log position; 1, or new events with --follow."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind, as edit.committed; repeatable.")
    ] = None,
    edit: Annotated[str, typer.Option(help="Only events of this edit, as edits/12-0.")] = "",
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows what happened to edits and replicas, one event a line."""
    begin = from_seq if follow or from_seq is not None else 1
    with Client(target, timeout=timeout) as client:
        for event in _events(client, begin, kind or [], edit, follow, timeout):
            if as_json:
                print_json_line(event)
            else:
                console().print(event_line(event), soft_wrap=True)


def _events(
    client: Client,
    from_seq: int | None,
    kinds: list[str],
    edit: str,
    follow: bool,
    timeout: float,
) -> Iterator[Event]:
    """Events; while following, a connection that breaks is opened again behind the last one."""
    after = ""
    while True:
        try:
            for event in client.events(
                from_seq,
                after=after,
                kinds=kinds,
                edit=edit,
                follow=follow,
                timeout=None if follow else timeout,
            ):
                after = event.name
                yield event
        except UnavailableError as error:
            if not after:  # what was missed is not known
                raise
            console(stderr=True).print(line(("reconnecting: ", "yellow"), error.message))
            time.sleep(_RETRY_SECONDS)
            continue
        if not follow:
            return


@webhooks.command("test")
def ping_webhook(
    url: Annotated[str, typer.Argument(help="URL of the server.")],
    secret_file: Annotated[
        Path | None, typer.Option(help="File with the secret; a new one is shown if unset.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also if its address is private.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 10.0,
) -> None:
    """Sends a signed ping from this machine, and says what came of it."""
    from errata.catalog.webhooks.messages import ping
    from errata.catalog.webhooks.sending import Attempt, Sender
    from errata.catalog.webhooks.targets import Target, check_url, new_secret, read_secret

    check_url(url)
    text, secret = new_secret() if secret_file is None else ("", read_secret(secret_file))
    if text:
        console().print(line("signed with the new secret ", (text, "bold")), soft_wrap=True)

    async def send() -> Attempt:
        async with Sender(timeout) as sender:
            target = Target(url, url, secret, allow_private=allow_private)
            return await sender.send(target, ping(datetime.now(UTC)))

    attempt = asyncio.run(send())
    if not attempt.is_delivered:
        console(stderr=True).print(line(("not delivered: ", "red"), attempt.problem))
        raise typer.Exit(1)
    console().print(line(("delivered", "green"), f" to {url}"))
