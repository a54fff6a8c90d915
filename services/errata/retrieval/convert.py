"""Retrieval messages: domain → proto."""

from __future__ import annotations

import math

from errata.editing.method import Claim
from errata.retrieval.replica import Decision, Moment
from errata_client._gen.errata.v1 import retrieval_pb2


def route_response(
    replica: str, moment: Moment, asked_seq: int, decisions: list[Decision]
) -> retrieval_pb2.RouteResponse:
    """Decisions and as of when they were made."""
    return retrieval_pb2.RouteResponse(
        prompts=map(_prompt, decisions),
        applied_seq=asked_seq,
        chain_digest=moment.chain_digest,
        state_digest=moment.state_digest,
        replica=replica,
    )


def status(
    replica: str, moment: Moment, floor_seq: int
) -> retrieval_pb2.GetRetrievalStatusResponse:
    """What a replica holds."""
    return retrieval_pb2.GetRetrievalStatusResponse(
        replica=replica,
        applied_seq=moment.seq,
        chain_digest=moment.chain_digest,
        state_digest=moment.state_digest,
        floor_seq=floor_seq,
        lanes=[
            retrieval_pb2.RoutedLane(lane=lane, num_edits=number)
            for lane, number in moment.num_edits.items()
        ],
    )


def _prompt(decision: Decision) -> retrieval_pb2.PromptClaims:
    return retrieval_pb2.PromptClaims(
        claims=[_claim(lane, claim) for lane, claim in decision.claims.items()],
        winner=decision.winner,
    )


def _claim(lane: str, claim: Claim) -> retrieval_pb2.Claim:
    return retrieval_pb2.Claim(
        lane=lane,
        edit=claim.edit,
        score=claim.score if math.isfinite(claim.score) else None,
        threshold=claim.threshold if math.isfinite(claim.threshold) else None,
        holds=claim.holds,
        prompt_cut=claim.cut,
    )


def claim_from(message: retrieval_pb2.Claim) -> Claim:
    """A decision as a worker uses it."""
    return Claim(
        edit=message.edit,
        score=message.score if message.HasField("score") else -math.inf,
        threshold=message.threshold if message.HasField("threshold") else math.inf,
        cut=message.prompt_cut,
    )
