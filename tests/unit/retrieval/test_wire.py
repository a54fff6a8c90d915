"""What the retrieval service decided is what a worker reads."""

from __future__ import annotations

import math

import pytest

from errata.editing.lane.claims import Claim
from errata.retrieval import convert
from errata.retrieval.deciding import Decision
from errata.retrieval.history import RoutingSnapshot


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
