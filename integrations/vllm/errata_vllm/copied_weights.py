"""The copy of the replica's edited down projections in vLLM's workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata_vllm.llm import Llm


class CopiedWeights:
    """Which down projections vLLM's workers hold.

    Attributes:
        digest: SHA-256, hex, of those that differ from the base model's; empty without any change.
    """

    def __init__(self, model: CausalLM, llm: Llm) -> None:
        """vLLM has the base weights.

        Args:
            model: the replica's, with its base weights.
            llm: the running vLLM.
        """
        self.digest = ""
        self._model = model
        self._llm = llm
        self._held = model.down_weights()
        self._digests: dict[int, str] = {}  # of those that were replaced, by layer

    async def copy(self) -> None:
        """Gives vLLM the down projections that differ; it must have no request.

        Raises:
            UnavailableError, DataLossError: vLLM did not take them.
        """
        wanted = self._model.down_weights()
        changed = _changed(wanted, self._held)
        if not changed:
            return
        self._digests |= await self._llm.replace_down(changed)
        self._held = wanted
        state = json.dumps(self._digests, sort_keys=True)
        self.digest = hashlib.sha256(state.encode()).hexdigest()


def _changed(wanted: Sequence[Tensor], held: Sequence[Tensor]) -> dict[int, Tensor]:
    """By layer; memory that is held cannot be another matrix's."""
    pairs = enumerate(zip(wanted, held, strict=True))
    return {layer: new for layer, (new, old) in pairs if new.data_ptr() != old.data_ptr()}
