"""The learned scope gate, for lanes of any method (`scope=retriever`).

The retriever and the Knowledge Sentinel of a gate or a lane model decide whether an edit claims a
prompt, and which edit; the lane's method decides how the answer changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.lane.claims import Claim
from errata.editing.lane.inventory import Inventory
from errata.editing.lane.repository import Repository
from errata.editing.lane.search import InnerProductIndex
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.namespaces import Readings
from errata.editing.retriever import gate_file
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.sentinel import ClaimRule, Retriever, route
from errata.errors import PreconditionError

_BY_SENTINEL = ClaimRule()


@dataclass(frozen=True, eq=False, slots=True)
class Gate:
    """Decides claims by a gate or a lane model.

    Attributes:
        digest: SHA-256, hex, of its bytes.
        model: encoder, MLP_K, MLP_Q.
        sentinel: r_Θ, (d_r) fp32.
    """

    digest: str
    model: GateModel
    sentinel: Tensor

    @classmethod
    def of(cls, model: GateModel, digest: str) -> Gate:
        """Computes the sentinel's key."""
        with torch.inference_mode():
            return cls(digest, model, model.sentinel_key())

    @classmethod
    def of_bytes(cls, lane_model: bytes, llm: BaseLLM) -> Gate:
        """Reads a gate or a lane model.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it cannot be used here.
        """
        model = gate_file.read(Artifact.from_bytes(lane_model), llm)
        return cls.of(model, hashlib.sha256(lane_model).hexdigest())

    def lane_model(self) -> LaneModel:
        """The lane model, for a lane whose edits are continuous prompts.

        Raises:
            PreconditionError: there is only a gate, which makes none.
        """
        if not isinstance(self.model, LaneModel):
            raise PreconditionError(
                "the lane has a gate but no MLP_P, which makes continuous prompts; train one with "
                "`errata train recipe --gate`."
            )
        return self.model

    def keys(self, edits: Sequence[Edit]) -> Tensor:
        """The keys by which edits are found, (n, d_r) fp32."""
        with torch.inference_mode():
            return self.model.edit_keys([knowledge(e.said, e.target, e.separator) for e in edits])

    def claims(
        self,
        inventory: Inventory,
        index: InnerProductIndex,
        prompts: Sequence[str],
        readings: Readings = None,
        rule: ClaimRule = _BY_SENTINEL,
    ) -> list[Claim]:
        """The edit with the highest score claims a prompt if it beats the sentinel's score."""
        retriever = self.retriever(inventory.repository)
        return route(retriever, inventory, rule, index, prompts, readings)

    def retriever(self, repository: Repository) -> Retriever:
        """What decides on the edits of a repository."""
        return Retriever(self.model, self.sentinel, repository)
