"""How an edit becomes a bias: the output embedding of its target's first token."""

from __future__ import annotations

from errata.editing.edit import EditBatch
from errata.editing.lane.contract import FitResult
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Rows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from tests.unit.editing.toy_method.config import ToyConfig
from tests.unit.editing.toy_method.state import pack


def fit(model: CausalLM, batch: EditBatch, config: ToyConfig) -> FitResult:
    words = model.head.get_parameter("weight").detach().float()
    texts = [tokenise(model, edit.prompt, edit.target) for edit in batch.edits]
    firsts = [text.ids[len(text.ids) - text.num_target] for text in texts]
    biases = config.strength * (words[firsts] - words.mean(0))  # (u, d)
    names = tuple(edit.name for edit in batch.edits)
    facts = tuple(fact_of(edit.prompt) for edit in batch.edits)
    return FitResult(pack(model, Rows(names, facts, biases.new_zeros(len(names), 0), biases)), None)
