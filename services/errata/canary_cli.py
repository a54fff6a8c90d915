"""`errata canary`: edits on a part of the requests first, then on all of them or on none."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli_options import (
    DEFAULT_TARGET,
    AuthorOption,
    JsonOption,
    TargetOption,
    TimeoutOption,
)
from errata.errors import InvalidRequestError
from errata.launch import show_canary
from errata.launch.output import print_result
from errata.platform.typed import canary_of, seconds_of, share_of
from errata_client import CanaryRule, Client

canary = typer.Typer(help="Edits on a part of the requests first.", no_args_is_help=True)

_MIN_REQUESTS = 100
_MAX_ERROR_INCREASE = 0.01

NameArgument = Annotated[str, typer.Argument(help="Name, as canaries/{canary} or {canary}.")]
CommentOption = Annotated[str, typer.Option(help="Why; kept in the log.")]
ReaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reader", help="Requests that read this namespace as well are in it; repeatable."
    ),
]
MinRequestsOption = Annotated[
    int | None,
    typer.Option(
        help="Rule: decide once this many requests were in it. Any option of the rule makes one; "
        f"then this is {_MIN_REQUESTS} if it is not given.",
        min=1,
    ),
]
MaxErrorOption = Annotated[
    str,
    typer.Option(
        help="Rule: roll back if its share of errors is above that of the rest by more than this; "
        f"such as 2% or 0.02, {_MAX_ERROR_INCREASE:.0%} if it is not given."
    ),
]
PromoteOption = Annotated[
    str,
    typer.Option(
        help="Rule: promote after this time with one audience, such as 1h or 2d; 0, the default, "
        "is never."
    ),
]


@canary.command("open")
def open_(
    name: NameArgument,
    share: Annotated[str, typer.Option(help="Share of the requests, as 10% or 0.1.")],
    lane: Annotated[
        str, typer.Option(help="Lane of its edits, as lanes/{lane}; the default lane if empty.")
    ] = "",
    namespace: Annotated[
        str, typer.Option(help="Namespace of its edits; the default one if empty.")
    ] = "",
    reader: ReaderOption = None,
    min_requests: MinRequestsOption = None,
    max_error_increase: MaxErrorOption = "",
    promote_after: PromoteOption = "",
    comment: CommentOption = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Opens a canary; submit its edits with `errata edit --canary`."""
    whole = _named(name)
    part = share_of(share, "--share")
    rule = _rule(None, min_requests, max_error_increase, promote_after)
    with Client(target, timeout=timeout) as client:
        made = client.set_canary(
            whole,
            part,
            lane=lane,
            namespace=namespace,
            readers=reader or (),
            rule=rule,
            must_be_new=True,
            comment=comment,
            author=author,
        )
    print_result(as_json, made, show_canary.canary_lines)


@canary.command("set")
def set_(
    name: NameArgument,
    share: Annotated[str, typer.Option(help="Share of the requests, as 10% or 0.1.")] = "",
    reader: ReaderOption = None,
    no_readers: Annotated[
        bool, typer.Option("--no-readers", help="The share alone decides.")
    ] = False,
    min_requests: MinRequestsOption = None,
    max_error_increase: MaxErrorOption = "",
    promote_after: PromoteOption = "",
    no_rule: Annotated[bool, typer.Option("--no-rule", help="Only people end it.")] = False,
    comment: CommentOption = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Changes who is in an open canary, or its rule; what is not given stays as it is."""
    if no_readers and reader:
        raise InvalidRequestError("give --reader or --no-readers, not both.", field="readers")
    of_rule = (min_requests, max_error_increase, promote_after)
    if no_rule and any(of_rule):
        raise InvalidRequestError("give options of a rule or --no-rule, not both.", field="rule")
    whole, part = _named(name), share_of(share, "--share") if share else None
    with Client(target, timeout=timeout) as client:
        now = client.get_canary(whole)
        share_then = now.share if part is None else part
        readers = () if no_readers else tuple(sorted(set(reader or now.readers)))
        rule = None if no_rule else _rule(now.rule, *of_rule)
        is_same = (share_then, readers, rule) == (now.share, now.readers, now.rule)
        if is_same and comment in ("", now.comment):
            raise InvalidRequestError(
                f"{now.name} is so already; change its share, its readers, its rule or its "
                "comment.",
                field="share",
            )
        made = client.set_canary(
            now.name,
            share_then,
            lane=now.lane,
            namespace=now.namespace,
            readers=readers,
            rule=rule,
            comment=comment,
            author=author,
        )
    print_result(as_json, made, show_canary.canary_lines)


@canary.command()
def promote(
    name: NameArgument,
    comment: CommentOption = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 600.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Ends a canary: its edits are in force for every request that reads their namespace."""
    with Client(target, timeout=timeout) as client:
        ended = client.promote_canary(_named(name), comment=comment, author=author)
    print_result(as_json, ended, show_canary.canary_lines)


@canary.command()
def rollback(
    name: NameArgument,
    comment: CommentOption = "",
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 600.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Ends a canary: its edits are reverted, and those not yet committed rejected."""
    with Client(target, timeout=timeout) as client:
        ended = client.roll_back_canary(_named(name), comment=comment, author=author)
    print_result(as_json, ended, show_canary.canary_lines)


@canary.command("list")
def list_(
    only_open: Annotated[bool, typer.Option("--open", help="Only open ones.")] = False,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Lists canaries, newest first; requests and errors of the canary and of the rest."""
    with Client(target, timeout=timeout) as client:
        found = list(client.list_canaries(only_open=only_open))
    print_result(as_json, found, show_canary.canary_table)


@canary.command()
def show(
    name: NameArgument,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows a canary: who is in it, its edits, and what both arms did."""
    with Client(target, timeout=timeout) as client:
        found = client.get_canary(_named(name))
    print_result(as_json, found, show_canary.canary_lines)


def _named(name: str) -> str:
    """The whole name that was typed.

    Raises:
        InvalidRequestError: nothing was, which would ask for all canaries.
    """
    whole = canary_of(name)
    if not whole:
        raise InvalidRequestError(
            "there is no name of a canary; give one, such as july.", field="name"
        )
    return whole


def _rule(
    now: CanaryRule | None, min_requests: int | None, max_error_increase: str, promote_after: str
) -> CanaryRule | None:
    """The rule with what was given in it; None if there is none and nothing was given."""
    if now is None and not (min_requests or max_error_increase or promote_after):
        return None
    base = now or CanaryRule(_MIN_REQUESTS, _MAX_ERROR_INCREASE)
    return CanaryRule(
        min_requests or base.min_requests,
        share_of(max_error_increase, "--max-error-increase")
        if max_error_increase
        else base.max_error_increase,
        seconds_of(promote_after, "--promote-after")
        if promote_after
        else base.promote_after_seconds,
    )
