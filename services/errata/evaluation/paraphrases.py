"""Paraphrases of a record's prompt by an LLM: sampled, and kept where answers agree. Ours.

The LLM is shown notes about the record's subject: the record's statement, and statements of other
relations with other answers. What a question q adds to an answer a is

    lift(a | q) = log p(a | notes, q) - log p(a | notes, q0),

where q0 asks for nothing in particular, and p is the probability of the answer's first token. The
difference removes what an LLM prefers whatever it is asked, such as the last of the notes, so that
small LLMs can judge, too. The margin of q is the lift of the record's answer minus the largest
other one, as a mean over two orders of the notes. A paraphrase is kept if its margin is large.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine import offline
from errata.engine.sampling import Sampling
from errata.evaluation.data.record import Record
from errata.evaluation.data.relations import Relations
from errata.evaluation.systems.local import LocalModel

_EXAMPLES = (
    ("The mother tongue of Ada Brown is", "French", "What language did Ada Brown grow up with?"),
    ("Where was Bob Steel born?", "Oslo", "In which city did Bob Steel come into the world?"),
    ("Kimber Radio, which was launched in", "1984", "When did Kimber Radio start?"),
)
_INTRODUCTION = "Each prompt is followed by a question that has the same answer, in other words."
_MAX_TOKENS = 24
_NUM_OTHERS = 3  # statements of other relations among the notes
NEUTRAL = ("What do the notes say?", "Which name is in the notes?")
_AT_ONCE = 16  # prompts of a pass, which bounds memory


@dataclass(frozen=True, slots=True)
class Paraphrasing:
    """How paraphrases are made.

    Attributes:
        samples: questions that are sampled for a record.
        keep: most paraphrases that are kept of them, those with the largest margins.
        least_margin: nats by which the lift of the right answer must exceed the others'.
        temperature: of sampling.
        seed: chooses samples and notes.
    """

    samples: int = 4
    keep: int = 2
    least_margin: float = 1.0
    temperature: float = 0.8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Paraphrases:
    """The paraphrases of a record.

    Attributes:
        kept: the best first.
        num_sampled: distinct questions about the subject that do not contain the answer.
    """

    kept: tuple[str, ...]
    num_sampled: int


class Paraphraser:
    """Makes paraphrases with an LLM, of records of one data set.

    The result for a record depends on the LLM, the data set and the settings alone, not on the
    records that it is asked with.
    """

    def __init__(self, model: CausalLM, records: Sequence[Record], settings: Paraphrasing) -> None:
        """Reads the relations of the records; notes are made of them.

        Args:
            model: any causal LM; a chat template is not used.
            records: whole data set.
            settings: of all paraphrases.
        """
        self.digest = model.digest
        self._model, self._local, self._settings = model, LocalModel(model), settings
        relations = Relations(records)
        self._facts = [
            (record, relation, self._first_token(record.target_new))
            for record in records
            if (relation := relations.of(record))
        ]
        self._relations = relations

    def paraphrase(self, records: Sequence[Record]) -> list[Paraphrases]:
        """Paraphrases of each record's prompt.

        Raises:
            InvalidEditError: a record is too long for the LLM.
        """
        sampled = self._sampled(records)
        notes = [self._notes(record) for record in records]
        rows = zip(records, sampled, notes, strict=True)
        margins = self.margins([(note, said) for _, said, note in rows if len(note) > 1 and said])
        return [
            self._kept(said, margins.pop(0)) if len(note) > 1 and said else Paraphrases((), 0)
            for said, note in zip(sampled, notes, strict=True)
        ]

    def _kept(self, said: Sequence[str], margins: Sequence[float]) -> Paraphrases:
        ranked = sorted(zip(margins, said, strict=True), key=lambda row: (-row[0], row[1]))
        agreeing = [text for margin, text in ranked if margin >= self._settings.least_margin]
        return Paraphrases(tuple(agreeing[: self._settings.keep]), len(said))

    def _sampled(self, records: Sequence[Record]) -> list[list[str]]:
        """Distinct questions of each record, as the LLM says them."""
        settings = self._settings
        numbers = range(settings.samples)
        prompts = [request(record) for record in records for _ in numbers]
        sampling = [
            Sampling(
                temperature=settings.temperature,
                top_p=0.95,
                seed=zlib.crc32(f"{settings.seed}/{record.prompt}/{number}".encode()),
            )
            for record in records
            for number in numbers
        ]
        said = self._local.generate(prompts, _MAX_TOKENS, sampling)
        return [
            asking(record, said[first : first + settings.samples])
            for first, record in zip(range(0, len(said), settings.samples), records, strict=True)
        ]

    def _notes(self, record: Record) -> list[tuple[str, str]]:
        """Statements about the record's subject and their answers; the record's own first."""
        notes = [(record.prompt, record.target_new)]
        relations = {self._relations.of(record)}
        tokens = {self._first_token(record.target_new)}
        rng = random.Random(f"{self._settings.seed}/{record.prompt}/{record.target_new}")
        for other, relation, token in rng.sample(self._facts, len(self._facts)):
            if relation in relations or token in tokens:
                continue
            prompt = other.prompt.replace(other.subject, record.subject)
            notes.append((prompt, other.target_new))
            relations.add(relation)
            tokens.add(token)
            if len(notes) > _NUM_OTHERS:
                break
        return notes

    def margins(
        self, asked: Sequence[tuple[Sequence[tuple[str, str]], Sequence[str]]]
    ) -> list[list[float]]:
        """The margins of questions about notes, in nats."""
        prompts = [
            prompt
            for notes, questions in asked
            for prompt in prompts_of(notes, (*NEUTRAL, *questions))
        ]
        log_p = iter(self._next_token(prompts))
        found = []
        for notes, questions in asked:
            tokens = [self._first_token(answer) for _, answer in notes]
            size = len(NEUTRAL) + len(questions)
            rows = torch.stack([next(log_p) for _ in range(2 * size)])[:, tokens]
            by_order = rows.view(2, size, len(tokens))
            neutral = by_order[:, : len(NEUTRAL)].mean(1, keepdim=True)
            lift = (by_order[:, len(NEUTRAL) :] - neutral).mean(0)
            found.append((lift[:, 0] - lift[:, 1:].amax(1)).tolist())
        return found

    def _next_token(self, prompts: Sequence[str]) -> list[Tensor]:
        """Natural log-probabilities of the next token, each (V,) fp32."""
        rows = [tokenise(self._model, prompt).ids for prompt in prompts]
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(rows), _AT_ONCE):
            chunk = by_length[start : start + _AT_ONCE]
            made = offline.next_token(self._model, [rows[number] for number in chunk])
            for number, row in zip(chunk, made, strict=True):
                found[number] = row
        return found

    def _first_token(self, answer: str) -> int:
        return int(self._model.tokenizer(f" {answer}", add_special_tokens=False).input_ids[0])


def asking(record: Record, said: Sequence[str]) -> list[str]:
    """The distinct texts that could ask for a record's answer, sorted.

    Each must be a question that names the subject, does not contain the answer, and is neither the
    prompt nor one of the record's rephrases.

    Args:
        record: with its answer.
        said: continuations by the LLM, each up to the end of its line.
    """
    known = {_bare(text) for text in (record.prompt, *record.rephrases)}
    texts = {text.strip().split("\n")[0].strip() for text in said}
    return sorted(
        text
        for text in texts
        if text.endswith("?")
        and record.subject in text
        and record.target_new.casefold() not in text.casefold()
        and _bare(text) not in known
    )


def _bare(text: str) -> str:
    return text.rstrip("?. ").casefold()


def request(record: Record) -> str:
    """The text that an LLM continues with a question for a record's answer."""
    shown = [
        f"Prompt: {prompt}\nAnswer: {answer}\nIn other words: {question}"
        for prompt, answer, question in _EXAMPLES
    ]
    own = f"Prompt: {record.prompt}\nAnswer: {record.target_new}\nIn other words:"
    return "\n\n".join([_INTRODUCTION, *shown, own])


def prompts_of(notes: Sequence[tuple[str, str]], questions: Sequence[str]) -> list[str]:
    """The texts that an LLM continues with an answer: every question in one order of the notes.

    Then every question in the reverse order.

    Args:
        notes: prompts and answers.
        questions: about them.
    """
    said = [f"{prompt} {answer}." for prompt, answer in notes]
    return [
        "\n".join([*order, "", f"Question: {question}", "Answer:"])
        for order in (said, said[::-1])
        for question in questions
    ]
