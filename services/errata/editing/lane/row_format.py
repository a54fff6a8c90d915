"""The format of edits in artifacts of methods that route: key, value and fact, one row per edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.inventory import FACT_BYTES, pack_facts, unpack_facts
from errata.editing.lane.repository import Rows
from errata.editing.model.causal_lm import BaseLLM
from errata.errors import ArtifactCorruptError, BaseModelMismatchError

_NO_TENSORS: Mapping[str, Tensor] = MappingProxyType({})
_NO_SPECS: Mapping[str, TensorSpec] = MappingProxyType({})
_NO_TEXTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RowFormat:
    """The tensors of rows in one method's artifacts: `keys`, values under a given name, `facts`.

    Attributes:
        method: the method's name; artifacts of other methods are refused.
        values: name of the values' tensor.
    """

    method: str
    values: str

    @property
    def row_tensors(self) -> frozenset[str]:
        """Names of the tensors that have one row for each edit."""
        return frozenset({"keys", self.values, "facts"})

    def pack(
        self,
        llm: BaseLLM,
        lane_model: str,
        rows: Rows,
        tensors: Mapping[str, Tensor] = _NO_TENSORS,
        metadata: Mapping[str, str] = _NO_TEXTS,
    ) -> Artifact:
        """An artifact with rows, and with the method's own `tensors` and `metadata`.

        Args:
            llm: the base model.
            lane_model: digest of the lane's model; empty without one.
            rows: of the edits.
            tensors: in addition to the rows'.
            metadata: in addition to the origin.
        """
        row_tensors = {
            "keys": rows.keys.cpu(),
            self.values: rows.values.cpu(),
            "facts": pack_facts(rows.facts),
        }
        origin = {"method": self.method, "base_model": llm.digest, "lane_model": lane_model}
        return Artifact({**tensors, **row_tensors}, {**origin, **metadata})

    def read(
        self,
        artifact: Artifact,
        llm: BaseLLM,
        lane_model: str,
        edits: tuple[str, ...],
        seq: int,
        *,
        key_width: int | None = None,
        value_size: tuple[int, ...] | None = None,
        others: Mapping[str, TensorSpec] = _NO_SPECS,
    ) -> Rows:
        """Checks the whole artifact and reads its rows onto the LLM's device.

        Args:
            artifact: of an entry.
            llm: of this process.
            lane_model: digest of the lane's model; empty without one.
            edits: of the entry.
            seq: of the entry.
            key_width: width of the keys; None accepts the artifact's.
            value_size: shape of one value; None accepts a vector of any width.
            others: specifications of all tensors of the method's own.

        Raises:
            BaseModelMismatchError: the artifact was made for another LLM.
            ArtifactCorruptError: it was made by another method or with another lane model, or its
                tensors have other shapes.
        """
        self._check_origin(artifact, llm, lane_model, seq)
        keys, values = artifact.tensors.get("keys"), artifact.tensors.get(self.values)
        width = _width(keys) if key_width is None else key_width
        size = (_width(values),) if value_size is None else value_size
        u = len(edits)
        artifact.check(
            {
                **others,
                "keys": TensorSpec((u, width), torch.float32),
                self.values: TensorSpec((u, *size), torch.float32),
                "facts": TensorSpec((u, FACT_BYTES), torch.uint8),
            }
        )
        facts = unpack_facts(artifact.tensors["facts"])
        rows = Rows(edits, facts, artifact.tensors["keys"], artifact.tensors[self.values])
        return rows.to(llm.device)

    def _check_origin(self, artifact: Artifact, llm: BaseLLM, lane_model: str, seq: int) -> None:
        origin = artifact.metadata
        if origin.get("base_model") != llm.digest:
            raise BaseModelMismatchError(
                f"commit {seq} was made for base model {origin.get('base_model')}; this replica "
                f"runs {llm.digest}; load the model that the log was made with.",
                seq=seq,
            )
        if origin.get("method") != self.method or origin.get("lane_model") != lane_model:
            raise ArtifactCorruptError(
                f"commit {seq} was made by method {origin.get('method')} with lane model "
                f"{origin.get('lane_model')}; the lane has method {self.method} and lane model "
                f"{lane_model}.",
                seq=seq,
            )


def _width(tensor: Tensor | None) -> int:
    return 0 if tensor is None or not tensor.dim() else tensor.shape[-1]
