"""Decides which edits claim which prompts, on a whole batch, at one position of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.namespaces import Readings
from errata.errors import InvalidRequestError, LimitExceededError
from errata.retrieval.history import RoutingSnapshot


@dataclass(frozen=True, eq=False, slots=True)
class RoutingQuery:
    """A batch of prompts that needs decisions.

    Attributes:
        prompts: at least one.
        vectors: (n, width) fp32 by lane, for lanes that decide by vectors from the LLM.
        lanes: names of the lanes that decide; empty means all.
        readings: the namespaces that each prompt reads; None if all read the default one.
    """

    prompts: Sequence[str]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    lanes: tuple[str, ...] = ()
    readings: Readings = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on one prompt.

    Attributes:
        claims: lane → its claim.
        winner: the newest edit that claims the prompt; empty if none claims it.
    """

    claims: dict[str, Claim]
    winner: str


def decide(snapshot: RoutingSnapshot, query: RoutingQuery) -> list[Decision]:
    """Decides on each prompt.

    Raises:
        InvalidRequestError: a lane needs vectors that the query lacks.
    """
    routing = snapshot.routing
    if routing is None:
        return [Decision({}, "")] * len(query.prompts)
    claims = routing.claims(query.prompts, query.vectors, query.lanes or None, query.readings)
    return [Decision(row, routing.winner(row)) for row in claims]


def check_request(
    query: RoutingQuery, at_seq: int | None, min_seq: int | None, max_prompts: int
) -> None:
    """Returns if the request can be answered.

    Raises:
        InvalidRequestError: no prompt, an empty one, or both positions.
        LimitExceededError: more than `max_prompts` prompts.
    """
    prompts = query.prompts
    if not prompts:
        raise InvalidRequestError("the request has no prompt; give one.", field="prompts")
    if len(prompts) > max_prompts:
        raise LimitExceededError(
            f"the request has {len(prompts):,} prompts; the limit is {max_prompts:,}. Split it.",
            field="prompts",
            limit=max_prompts,
        )
    if at_seq is not None and min_seq is not None:
        raise InvalidRequestError("give at_seq or min_seq, not both.", field="at_seq")
    for index, prompt in enumerate(prompts):
        if not prompt.strip():
            raise InvalidRequestError(
                f"prompts[{index}] is empty; fill it in.", field=f"prompts[{index}]"
            )
