"""Retrieval prompt: the nearest knowledge statement, put before the query as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer

from errata.editing.chat import Prompt, as_chat, said
from errata.editing.lane.contract import LaneConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import join
from errata.engine.sampling import Sampling
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome, Pair, Scored
from errata.evaluation.systems.local import LocalModel

_QUERIES = 256  # compared at once with all statements


class RetrievalPromptConfig(LaneConfig):
    """Settings of the retrieval prompt.

    Attributes:
        threshold: least cosine for a statement to be put before the query; 0 accepts any statement
            that shares a word.
    """

    threshold: float = Field(default=0.0, ge=0.0, le=1.0)


class RetrievalPrompt(LocalModel):
    """The base model with the nearest statement, by TF-IDF cosine, before each query."""

    def __init__(self, model: CausalLM, config: RetrievalPromptConfig) -> None:
        """Starts without statements."""
        super().__init__(model)
        self._threshold = config.threshold
        self.reset()

    @property
    def state_bytes(self) -> int:
        """Bytes of the statements as UTF-8."""
        return sum(len(statement.encode()) for statement in self._statements)

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Adds statements and rebuilds the index."""
        start = perf_counter()
        self._statements += [f"{join(r.prompt, r.target_new)}." for r in records]
        self._index = self._vectorizer.fit_transform(self._statements)
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Scores continuations of statement and prompt."""
        prompts = self._stated([prompt for prompt, _ in pairs])
        targets = [target for _, target in pairs]
        return super().score(list(zip(prompts, targets, strict=True)))

    def generate(
        self, prompts: Sequence[Prompt], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        """Continues statement and prompt."""
        return super().generate(self._stated(prompts), max_tokens, sampling)

    def _stated(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Each prompt with its nearest statement before what the user says."""
        queries = self.with_statements([said(prompt) for prompt in prompts])
        return [
            query if isinstance(prompt, str) else as_chat(query)
            for prompt, query in zip(prompts, queries, strict=True)
        ]

    def with_statements(self, queries: Sequence[str]) -> list[str]:
        """Each query with its nearest statement before it; the later statement on a tie."""
        if not self._statements:
            return list(queries)
        found: dict[str, str] = {}
        distinct = list(dict.fromkeys(queries))
        for start in range(0, len(distinct), _QUERIES):
            part = distinct[start : start + _QUERIES]
            # Rows have unit length, so products are cosines.
            cosines = (self._vectorizer.transform(part) @ self._index.T).toarray()
            nearest = cosines.shape[1] - 1 - cosines[:, ::-1].argmax(axis=1)
            for query, j, cosine in zip(part, nearest, cosines.max(axis=1), strict=True):
                reached = cosine > 0 and cosine >= self._threshold
                found[query] = f"{self._statements[j]} {query}" if reached else query
        return [found[query] for query in queries]

    def reset(self) -> None:
        """Removes all statements."""
        self._statements: list[str] = []
        self._vectorizer = TfidfVectorizer()
