"""Retrieval messages: proto ↔ domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from errata.editing.artifact import tensor_bytes
from errata.editing.lane.claims import Claim
from errata.editing.namespaces import (
    DEFAULT_ONLY,
    Reading,
    Readings,
    can_be_canary_place,
    is_canary_place,
    reading_of,
)
from errata.errors import InvalidRequestError
from errata.log.canaries import MAX_OPEN
from errata.retrieval.deciding import Decision, RoutingQuery
from errata.retrieval.history import RoutingSnapshot
from errata_client._gen.errata.v1 import retrieval_pb2

_FP32 = 4  # bytes


def route_response(
    replica: str, snapshot: RoutingSnapshot, asked_seq: int, decisions: list[Decision]
) -> retrieval_pb2.RouteResponse:
    """Decisions, and the position that they were made for."""
    return retrieval_pb2.RouteResponse(
        prompts=map(_prompt, decisions),
        applied_seq=asked_seq,
        chain_digest=snapshot.chain_digest,
        state_digest=snapshot.state_digest,
        replica=replica,
    )


def query_from(request: retrieval_pb2.RouteRequest) -> RoutingQuery:
    """A received batch of prompts.

    Raises:
        InvalidRequestError: the vectors or the readings do not match the prompts, vectors are not
            finite, or a namespace is impossible.
        LimitExceededError: a reading has too many names.
    """
    vectors = {}
    for index, message in enumerate(request.vectors):
        count, size = len(request.prompts), len(message.values)
        if not count or not size or size % (_FP32 * count):
            raise InvalidRequestError(
                f"vectors[{index}] has {size:,} bytes for {count} prompts; send one fp32 vector "
                "for each prompt.",
                field=f"vectors[{index}].values",
            )
        values = torch.frombuffer(bytearray(message.values), dtype=torch.float32)
        if not bool(torch.isfinite(values).all()):
            raise InvalidRequestError(
                f"vectors[{index}] has values that are not finite.",
                field=f"vectors[{index}].values",
            )
        vectors[message.lane] = values.reshape(count, -1)
    return RoutingQuery(
        list(request.prompts), vectors, tuple(request.lanes), _readings_from(request)
    )


def _readings_from(request: retrieval_pb2.RouteRequest) -> Readings:
    if not request.readings:
        return None
    if len(request.readings) != len(request.prompts):
        raise InvalidRequestError(
            f"the request has {len(request.readings)} readings for {len(request.prompts)} prompts; "
            "send one for each prompt, or none.",
            field="readings",
        )
    return [_reading_from(reading, index) for index, reading in enumerate(request.readings)]


def _reading_from(message: retrieval_pb2.Reading, index: int) -> Reading:
    names = reading_of(message.namespaces, f"readings[{index}].namespaces")
    if not message.places:
        return names
    field = f"readings[{index}].places"
    if len(message.places) > MAX_OPEN or not all(map(can_be_canary_place, message.places)):
        raise InvalidRequestError("it names no places of open canaries.", field=field)
    return tuple(sorted({*names, *message.places}))


def reading_messages(readings: Readings) -> list[retrieval_pb2.Reading]:
    """Readings to send; none if all are of the default namespace, as older releases send none."""
    if readings is None or all(reading == DEFAULT_ONLY for reading in readings):
        return []
    return [_reading_message(reading) for reading in readings]


def _reading_message(reading: Reading) -> retrieval_pb2.Reading:
    return retrieval_pb2.Reading(
        namespaces=[name for name in reading if not is_canary_place(name)],
        places=[name for name in reading if is_canary_place(name)],
    )


def vectors_message(lane: str, vectors: Tensor) -> retrieval_pb2.LaneVectors:
    """Vectors (n, width) to send, as fp32."""
    values = bytes(tensor_bytes(vectors.float()))
    return retrieval_pb2.LaneVectors(lane=lane, values=values)


def status(
    replica: str, snapshot: RoutingSnapshot, floor_seq: int
) -> retrieval_pb2.GetRetrievalStatusResponse:
    """A replica's position and lanes."""
    return retrieval_pb2.GetRetrievalStatusResponse(
        replica=replica,
        applied_seq=snapshot.seq,
        chain_digest=snapshot.chain_digest,
        state_digest=snapshot.state_digest,
        floor_seq=floor_seq,
        lanes=[
            retrieval_pb2.RoutedLane(lane=lane, num_edits=number)
            for lane, number in snapshot.num_edits.items()
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
        score=claim.score if claim.edit else None,
        threshold=claim.threshold,
        holds=claim.holds,
        prompt_cut=claim.cut,
    )


def claim_from(message: retrieval_pb2.Claim) -> Claim:
    """A received decision."""
    return Claim(
        edit=message.edit,
        score=message.score if message.HasField("score") else -math.inf,
        threshold=message.threshold if message.HasField("threshold") else math.inf,
        cut=message.prompt_cut,
    )
