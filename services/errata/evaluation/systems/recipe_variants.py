"""Variants of serving RECIPE that its analyses compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.editing.effects.plan import RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.model.prompts import TokenRow, join, tokenise
from errata.evaluation.data.record import Record
from errata.evaluation.systems.lane import LaneSystem


class WordsSystem(LaneSystem):
    """RECIPE's retrieval with the knowledge statement's own words as prompts.

    The statement's token embeddings take the place of the continuous prompt: the paper's ablation
    without prompts.
    """

    def _accept(self, records: Sequence[Record]) -> list[Edit]:
        edits = super()._accept(records)
        self._statements.update({e.name: f"{join(e.said, e.target)}." for e in edits})
        return edits

    def _start_over(self) -> None:
        super()._start_over()
        self._statements: dict[str, str] = {}

    def _plans(self, prompts: Sequence[str]) -> Sequence[RowPlan]:
        return [self._in_words(plan) for plan in super()._plans(prompts)]

    def _in_words(self, plan: RowPlan) -> RowPlan:
        prefix = plan.effect(Prefix)
        if prefix is None:
            return plan
        after = prefix.after
        ids = tokenise(self.model, self._statements[plan.edits[0]]).ids[after:]
        words = self.model.embeddings(torch.tensor(ids, device=self.model.device))
        return replace(plan, effects=(Prefix(words.detach(), after),))


class LeakySystem(LaneSystem):
    """Retrieval with the text that the LLM reads under teacher forcing: prompt and target.

    The query has all but the target's last token, as in the paper's evaluation. It contains the
    answer; for comparison only.
    """

    def _query(self, prompt: Prompt, row: TokenRow) -> str:
        ids = row.ids[row.said_index : -1]
        text: str = self.model.tokenizer.decode(ids, skip_special_tokens=True)
        return text
