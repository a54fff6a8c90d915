"""What the retrieval service decided is what a worker reads."""

from __future__ import annotations

import math

import pytest

from errata.editing.lane.claims import Claim
from errata.editing.namespaces import Reading
from errata.errors import InvalidRequestError
from errata.log.canaries import MAX_OPEN
from errata.retrieval import convert
from errata.retrieval.deciding import Decision
from errata.retrieval.history import RoutingSnapshot
from errata_client._gen.errata.v1 import retrieval_pb2


@pytest.mark.parametrize(
    "claim",
    [
        Claim("", -math.inf, 0.5),
        Claim("edits/1-0", 0.5, 0.25, cut=True),
        Claim("edits/1-0", math.inf, 0.25),
        Claim("edits/1-0", 0.5, -math.inf),
    ],
)
def test_a_claim_is_the_same_over_the_wire(claim: Claim) -> None:
    decision = Decision({"lanes/main": claim}, claim.edit)
    snapshot = RoutingSnapshot(1, bytes(32), "", None, {})
    sent = convert.route_response("retrieval", snapshot, 1, [decision])
    (message,) = type(sent).FromString(sent.SerializeToString()).prompts[0].claims
    assert convert.claim_from(message) == claim
    assert message.holds is claim.holds


READINGS: list[Reading] = [
    ("", "team-a"),
    ("*",),
    ("", "team-a", "team-a~spring"),
    ("*", "~spring"),
]


def test_a_reading_is_the_same_over_the_wire() -> None:
    request = retrieval_pb2.RouteRequest(
        prompts=["x"] * len(READINGS), readings=convert.reading_messages(READINGS)
    )
    assert convert.query_from(request).readings == READINGS


@pytest.mark.parametrize("places", [["team-a"], ["~a"] * (MAX_OPEN + 1), ["No~a"], ["~A"], ["~"]])
def test_impossible_places_are_refused(places: list[str]) -> None:
    reading = retrieval_pb2.Reading(places=places)
    with pytest.raises(InvalidRequestError) as caught:
        convert.query_from(retrieval_pb2.RouteRequest(prompts=["x"], readings=[reading]))
    assert caught.value.field == "readings[0].places"
