"""Scores and continuations of a model in this process, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from errata.editing.chat import Prompt, said
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.engine import offline
from errata.engine.sampling import Sampling
from errata.engine.sequence import whole_text
from errata.evaluation.systems import Pair, Scored

_MAX_CELLS = 4096  # tokens of a padded batch, which bounds memory
_MAX_ROWS = 64  # continuations at once: each holds a cache


class LocalModel:
    """Answers of a model in its current state; subclasses edit it."""

    def __init__(self, model: CausalLM) -> None:
        """Uses the model in its current state."""
        self.model = model
        self.model_digest = model.digest

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Scores continuations under teacher forcing.

        Raises:
            InvalidEditError: a text is too long or a continuation has no token.
        """
        rows = [tokenise(self.model, prompt, target) for prompt, target in pairs]
        found: list[Scored | None] = [None] * len(rows)
        for chunk in _chunks([len(row.ids) for row in rows]):
            batch = [rows[i] for i in chunk]
            targets = [row.ids[-row.num_target :] for row in batch]
            prompts = [row.ids[: -row.num_target] for row in batch]
            queries = [self._query(pairs[i][0], rows[i]) for i in chunk]
            plans = self._plans_in(batch, queries)
            with self._reading(prompts):
                log_p, own = offline.score(self.model, prompts, targets, plans)
            for i, target, values, ids in zip(chunk, targets, log_p, own, strict=True):
                found[i] = Scored(target, tuple(ids), tuple(values))
        return [item for item in found if item is not None]

    def generate(
        self, prompts: Sequence[Prompt], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        """Continues each prompt, up to the end of text or of the assistant's turn."""
        texts: list[str] = []
        end_ids = self.model.end_ids
        for start in range(0, len(prompts), _MAX_ROWS):
            asked = prompts[start : start + _MAX_ROWS]
            rows = [tokenise(self.model, prompt) for prompt in asked]
            ids = [row.ids for row in rows]
            part = sampling[start : start + _MAX_ROWS]
            plans = self._plans_in(rows, [said(prompt) for prompt in asked])
            with self._reading(ids):
                made = offline.generate(self.model, ids, max_tokens, part, plans)
            for new in made:
                end = next((n for n, token in enumerate(new) if token in end_ids), None)
                texts.append(whole_text(self.model.tokenizer, new[:end]))
        return texts

    def _query(self, prompt: Prompt, row: TokenRow) -> str:
        """The text that is routed when a continuation is scored: what the user says, alone."""
        return said(prompt)

    def _plans_in(self, rows: Sequence[TokenRow], queries: Sequence[str]) -> list[RowPlan]:
        """The plan of each query, with the place of what the user says in its row, as served."""
        plans = self._plans(queries)
        return [plan.behind(row.said_index) for plan, row in zip(plans, rows, strict=True)]

    def _plans(self, prompts: Sequence[str]) -> Sequence[RowPlan]:
        """The edits' effect on each prompt, apart from the model's weights."""
        return [BASE] * len(prompts)

    def _reading(self, prompts: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
        """Surrounds a pass that reads prompts from column 0 on, for subclasses with hooks."""
        return nullcontext()


def _chunks(sizes: Sequence[int]) -> list[list[int]]:
    """Indices grouped by similar size, so that little is padded."""
    chunks: list[list[int]] = [[]]
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if chunks[-1] and (len(chunks[-1]) + 1) * sizes[i] > _MAX_CELLS:
            chunks.append([])
        chunks[-1].append(i)
    return [chunk for chunk in chunks if chunk]
