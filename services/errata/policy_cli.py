"""Commands about policy: previews and reviews of edits that wait, and the probe set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from errata.cli_options import DEFAULT_TARGET, AuthorOption, JsonOption, TargetOption, TimeoutOption
from errata.errors import InvalidRequestError
from errata.launch import show_policy
from errata.launch.output import line, print_result
from errata_client import Chat, ChatMessage, Client

NamesArgument = Annotated[list[str], typer.Argument(help="Names of edits, such as edits/12-0.")]
CommentOption = Annotated[str, typer.Option(help="Why; kept in the log.")]

probes = typer.Typer(help="The prompts that edits should not change.", no_args_is_help=True)


def preview(
    names: NamesArgument,
    timeout: TimeoutOption = 120.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows what edits that are proposed or scheduled would do; they are of one lane."""
    with Client(target, timeout=timeout) as client:
        found = client.preview_waiting(names)
    print_result(as_json, found, lambda _: Group(*map(show_policy.preview_lines, found)))
    if any(each.error for each in found):
        raise typer.Exit(1)


def approve(
    names: NamesArgument,
    comment: CommentOption = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Approves proposed edits of other authors; they are fitted and checked from then on."""
    with Client(target, timeout=timeout) as client:
        decision = client.approve(names, comment=comment, author=author)
    print_result(as_json, decision, show_policy.decision_lines)


def reject(
    names: NamesArgument,
    comment: Annotated[str, typer.Option(help="Why; kept in the log. Required.")],
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Rejects proposed edits."""
    with Client(target, timeout=timeout) as client:
        decision = client.reject(names, comment=comment, author=author)
    print_result(as_json, decision, show_policy.decision_lines)


def withdraw(
    names: NamesArgument,
    comment: CommentOption = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Withdraws one's own edits that are proposed or scheduled."""
    with Client(target, timeout=timeout) as client:
        decision = client.withdraw(names, comment=comment, author=author)
    print_result(as_json, decision, show_policy.decision_lines)


@probes.command("set")
def set_probes(
    file: Annotated[Path, typer.Argument(help="UTF-8 text, one prompt a line.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Each line is the user's turn of a conversation.")
    ] = False,
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Replaces the probe set by the lines of a file; an empty file empties it."""
    texts = _lines(file)
    prompts = [Chat((ChatMessage("user", text),)) if chat else text for text in texts]
    with Client(target, timeout=timeout) as client:
        seq = client.set_probes(prompts, author=author)
    result = {"seq": seq, "num_prompts": len(prompts)}
    print_result(as_json, result, lambda _: line(f"{len(prompts):,} prompts from seq {seq} on"))


@probes.command("show")
def show_probes(
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows the probe set."""
    with Client(target, timeout=timeout) as client:
        found = client.probes()
    print_result(as_json, found, show_policy.probe_table)


def _lines(file: Path) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"{file} cannot be read as UTF-8 text: {error}.", field="file"
        ) from error
    return [each.strip() for each in text.splitlines() if each.strip()]
