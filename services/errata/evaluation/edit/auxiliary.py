"""Measurements in addition to the records: held-out text, general ability, generated texts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from errata.engine.sampling import Sampling
from errata.errors import InvalidRequestError
from errata.evaluation.data.fields import read_paragraphs
from errata.evaluation.data.general import GeneralQuestion, load_general, name_of
from errata.evaluation.data.record import Record
from errata.evaluation.data.references import load_references
from errata.evaluation.edit.plan import AuxiliaryData
from errata.evaluation.judge import Measures
from errata.evaluation.metrics.ability import question_pairs, share_right
from errata.evaluation.metrics.likelihood import perplexity, text_pairs
from errata.evaluation.metrics.texts import Consistency, fluency
from errata.evaluation.systems import Pair, System

_TEXT_TOKENS = 100
_TOP_K = 5


@dataclass(frozen=True, slots=True)
class AuxiliaryMetrics:
    """Measurements before the first edit and after the last.

    Attributes:
        heldout: paragraphs as pairs; empty for no perplexity.
        questions: name of a file or task → its questions.
        num_texts: number of records whose generated texts are judged.
        consistency: against reference texts; None if it is not measured.
    """

    heldout: Sequence[Pair]
    questions: Mapping[str, Sequence[GeneralQuestion]]
    num_texts: int
    consistency: Consistency | None

    @classmethod
    def of(cls, data: AuxiliaryData) -> AuxiliaryMetrics:
        """Reads the files.

        Raises:
            InvalidRequestError: a file is unusable.
        """
        names = [name_of(path) for path in data.retention]
        if len(set(names)) < len(names):
            raise InvalidRequestError(
                "two files of questions have the same name, which names their figures; rename one, "
                "or the folder of a task.json.",
                field="retention",
            )
        references = load_references(data.references) if data.references else None
        return cls(
            heldout=text_pairs(read_paragraphs(data.heldout)) if data.heldout else (),
            questions=dict(zip(names, map(load_general, data.retention), strict=True)),
            num_texts=data.num_texts,
            consistency=None if references is None else Consistency(references),
        )

    def measure(self, system: System, records: Sequence[Record]) -> Measures:
        """`perplexity`, `retention.{name}`, `fluency` and `consistency`, as far as configured."""
        figures: Measures = {}
        if self.heldout:
            figures["perplexity"] = round(perplexity(system.score(self.heldout)), 2)
        for name, questions in self.questions.items():
            scored = system.score(question_pairs(questions))
            figures[f"retention.{name}"] = share_right(questions, scored)
        if self.num_texts:
            figures |= self._texts(system, records[: self.num_texts])
        return figures

    def _texts(self, system: System, records: Sequence[Record]) -> Measures:
        """Figures of one text per record: sampled with top-k 5 from the record's own prompt."""
        prompts = [(record.generation_prompts or (record.prompt,))[0] for record in records]
        sampling = [
            Sampling(temperature=1.0, top_k=_TOP_K, seed=zlib.crc32(prompt.encode()))
            for prompt in prompts
        ]
        texts = [
            f"{prompt} {text.strip()}"
            for prompt, text in zip(
                prompts, system.generate(prompts, _TEXT_TOKENS, sampling), strict=True
            )
        ]
        figures: Measures = {"fluency": round(fmean(map(fluency, texts)), 2)}
        if self.consistency is not None:
            found = [
                self.consistency(text, record.target_new)
                for text, record in zip(texts, records, strict=True)
            ]
            known = [value for value in found if value is not None]
            figures["consistency"] = round(fmean(known), 2) if known else None
        return figures
