"""Commands that call a running system: edit, ask, score, list, revert, compact.

They import neither torch nor Ray; `adapters` is the exception, because it reads a lane's tensors.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli_options import (
    DEFAULT_TARGET,
    AuthorOption,
    CanaryOption,
    JsonOption,
    KeyOption,
    NamespaceOption,
    ReadOption,
    StateName,
    TargetOption,
    TimeoutOption,
)
from errata.errors import UnknownLaneError
from errata.launch import show, show_policy
from errata.launch.output import print_result
from errata.launch.terminal import console
from errata.platform.plain import shown
from errata.platform.settings import load_settings
from errata.platform.typed import canary_of
from errata_client import Chat, ChatMessage, Client, EditSpec, EditState, Sampling

ChatOption = Annotated[
    bool, typer.Option("--chat", help="Send the prompt as the user's turn of a conversation.")
]
SystemOption = Annotated[
    str, typer.Option(help="System prompt in front of the conversation; implies --chat.")
]
SeparatorOption = Annotated[
    str | None,
    typer.Option(
        help="White space, or nothing, between prompt and target; \\n is a line break. By default "
        "it depends on the prompt's end and its script."
    ),
]
MinSeqOption = Annotated[int | None, typer.Option(help="Minimum log position of the answer.")]
BeginOption = Annotated[
    datetime | None, typer.Option(help="Time from which it has an effect; local time.")
]
EndOption = Annotated[
    datetime | None, typer.Option(help="Time at which it is reverted; local time.")
]


def edit(
    prompt: str,
    target_text: Annotated[str, typer.Argument(metavar="TARGET_TEXT", help="The right answer.")],
    subject: Annotated[str, typer.Option(help="Person or thing that the fact is about.")] = "",
    rephrase: Annotated[
        list[str] | None, typer.Option(help="Rephrased prompt to check; repeatable.")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="Prompt whose answer must not change; repeatable.")
    ] = None,
    source: Annotated[str, typer.Option(help="Source of the correction.")] = "",
    separator: SeparatorOption = None,
    effective_from: BeginOption = None,
    expires_at: EndOption = None,
    chat: ChatOption = False,
    system: SystemOption = "",
    namespace: NamespaceOption = "",
    canary: CanaryOption = "",
    lane: Annotated[
        str, typer.Option(help="Lane, as lanes/{lane}; else the canary's, or the default one.")
    ] = "",
    *,
    author: AuthorOption,
    wait: Annotated[bool, typer.Option(help="Wait until the edit is in effect.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the edit would do, and submit nothing.")
    ] = False,
    timeout: TimeoutOption = 120.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Submits a correction."""
    spec = EditSpec(
        _asked(prompt, chat, system),
        target_text,
        subject,
        tuple(_asked(text, chat, system) for text in rephrase or ()),
        tuple(_asked(text, chat, system) for text in probe or ()),
        source,
        _typed(separator),
        effective_from,
        expires_at,
        namespace,
        canary_of(canary),
    )
    with Client(target, timeout=timeout) as client:
        if dry_run:
            (preview,) = client.preview_edits([spec], lane=lane)
            print_result(as_json, preview, show_policy.preview_lines)
            if preview.error:
                raise typer.Exit(1)
            return
        (submitted,) = client.submit_edits([spec], lane=lane, author=author)
        if wait:
            conflicts = submitted.conflicts
            (settled,) = client.wait_edits([submitted.name])
            submitted = replace(settled, conflicts=conflicts)
    print_result(as_json, submitted, show.edit_lines)
    if wait and submitted.state is not EditState.COMMITTED:
        raise typer.Exit(1)


def ask(
    prompt: str,
    min_seq: MinSeqOption = None,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of new tokens.")] = 16,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text; repeatable.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the most likely tokens up to this probability.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(help="Sample from the k most likely tokens; 0 disables.")
    ] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed that makes sampling repeatable.")] = None,
    chat: ChatOption = False,
    system: SystemOption = "",
    everywhere: Annotated[bool, typer.Option(help="Ask every replica.")] = False,
    namespace: ReadOption = None,
    canary_key: KeyOption = "",
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Continues a prompt with the edited model."""
    options: dict[str, Any] = {
        "min_seq": min_seq,
        "max_tokens": max_tokens,
        "stop": stop or (),
        "sampling": Sampling(temperature, top_p, top_k, seed) if temperature else None,
        "namespaces": namespace or (),
        "canary_key": canary_key,
    }
    asked = _asked(prompt, chat, system)
    with Client(target, timeout=timeout) as client:
        if everywhere:
            answers = client.generate_everywhere(asked, **options)
            print_result(as_json, answers, lambda found: show.everywhere_table(asked, found))
        else:
            answer = client.generate(asked, **options)
            print_result(as_json, answer, lambda found: show.answer_lines(asked, found))


def score(
    prompt: str,
    continuation: str,
    min_seq: MinSeqOption = None,
    separator: SeparatorOption = None,
    chat: ChatOption = False,
    system: SystemOption = "",
    namespace: ReadOption = None,
    canary_key: KeyOption = "",
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows the model's probability of a continuation, token by token."""
    with Client(target, timeout=timeout) as client:
        asked = _asked(prompt, chat, system)
        scored = client.score(
            asked,
            continuation,
            min_seq=min_seq,
            separator=_typed(separator),
            namespaces=namespace or (),
            canary_key=canary_key,
        )
    print_result(as_json, scored, show.score_lines)


def status(
    watch: Annotated[bool, typer.Option(help="Refresh every second, until Ctrl-C.")] = False,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows replicas, positions, digests and lag; fails if a replica disagrees."""
    from errata.launch.status import read_status, watch_status

    with Client(target, timeout=timeout) as client:
        if watch:
            watch_status(client, console())
            return
        found = read_status(client)
    print_result(as_json, found, lambda status: status.lines())
    if not found.agrees:
        raise typer.Exit(1)


def edits(
    state: Annotated[StateName | None, typer.Option(help="Only edits in this state.")] = None,
    lane: Annotated[str, typer.Option(help="Only edits of this lane, as lanes/{lane}.")] = "",
    asked_by: Annotated[str, typer.Option("--author", help="Only edits of this author.")] = "",
    since: Annotated[
        datetime | None, typer.Option(help="Only edits requested at this time or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only edits requested before this time.")
    ] = None,
    contains: Annotated[
        str, typer.Option(help="Only edits with this text in prompt, target, subject or source.")
    ] = "",
    namespace: Annotated[
        str | None,
        typer.Option(help="Only edits of this namespace; `default` is the default one."),
    ] = None,
    canary: Annotated[
        str, typer.Option(help="Only edits of this canary, open or ended, as july.")
    ] = "",
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Lists edits: the state of each, who requested it and when, and why it was rejected."""
    with Client(target, timeout=timeout) as client:
        found = client.list_edits(
            EditState[state.upper()] if state else None,
            lane=lane,
            author=asked_by,
            since=since,
            until=until,
            contains=contains,
            namespace=namespace,
            canary=canary_of(canary),
        )
        print_result(as_json, list(found), show.edit_list)


def revert(
    names: Annotated[list[str], typer.Argument(help="Names of edits, such as edits/12-0.")],
    comment: Annotated[str, typer.Option(help="Reason for the reversal.")] = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Reverts committed edits."""
    with Client(target, timeout=timeout) as client:
        reversal = client.revert(names, comment=comment, author=author)
    print_result(as_json, reversal, show.reversal_lines)


def compact(
    lane: Annotated[str, typer.Argument(help="Lane, such as lanes/main.")],
    experts: Annotated[
        int,
        typer.Option(help="Number of experts that share the edits; 0 uses the method's default."),
    ] = 0,
    max_loss: Annotated[
        float, typer.Option(help="Largest loss of reliability and of locality that is accepted.")
    ] = 0.02,
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 3_600.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Retrains a lane from its active edits, checks it, and commits it."""
    with Client(target, timeout=timeout) as client:
        made = client.compact(lane, num_experts=experts, max_loss=max_loss, author=author)
        (now,) = (item for item in client.lanes() if item.name == lane)
    print_result(as_json, made, lambda _: show.compaction_lines(made, now))


def lanes(
    lane: Annotated[str, typer.Argument(help="Show this lane's configuration.")] = "",
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Lists the lanes that take edits."""
    with Client(target, timeout=timeout) as client:
        found = client.lanes()
    if not lane:
        print_result(as_json, found, show.lane_table)
    elif one := next((item for item in found if item.name == lane), None):
        print_result(as_json, one, show.lane_config_table)
    else:
        names = ", ".join(shown(item.name) for item in found)
        raise UnknownLaneError(f"there is no lane {lane!r}; choose one of {names}.")


def health(
    address: Annotated[str, typer.Argument(help="host:port of a service.")],
    timeout: TimeoutOption = 5.0,
) -> None:
    """Shows a service's health by gRPC's health protocol; fails if it is not serving."""
    from errata.launch.health import health_of

    # Inside a service's container, its own certificate is the credential.
    state = health_of(address, timeout, load_settings().security)
    said = f"{state}; nothing that speaks gRPC answers" if state == "UNAVAILABLE" else state
    console().print(f"{address}: {said}")
    if state != "SERVING":
        raise typer.Exit(1)


def adapters(
    lane: Annotated[str, typer.Argument(help="An ELDER lane, such as lanes/main.")],
    out: Annotated[
        Path, typer.Argument(help="Output folder; each expert gets a folder inside it.")
    ],
    model: Annotated[
        str, typer.Option(help="Base model: folder or hub id; the demo model if empty.")
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Writes the experts of an ELDER lane as PEFT adapters."""
    from errata.launch.adapters import export_adapters

    settings = load_settings({"model": {"path": model or None}})
    export_adapters(settings, target, lane, out, console())


def _asked(prompt: str, chat: bool, system: str) -> str | Chat:
    """The prompt as text, or as the user's turn of a conversation."""
    if not chat and not system:
        return prompt
    turns = [ChatMessage("system", system)] if system else []
    return Chat((*turns, ChatMessage("user", prompt)))


def _typed(separator: str | None) -> str | None:
    """White space as it is typed in a shell: a backslash and n is a line break."""
    return None if separator is None else separator.replace("\\n", "\n").replace("\\t", "\t")
