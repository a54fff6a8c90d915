"""Questions that an LLM makes of a record's prompt, kept where they ask for its answer. Ours.

The LLM reads notes about the record's subject: the record's statement, and statements of other
relations with other answers. What a question q adds to an answer a is

    lift(a | q) = log p(a | notes, q) - mean of log p(a | notes, q0),

where the questions q0 ask for nothing in particular, and p is the probability of the answer's first
token. The difference removes what an LLM prefers whatever it is asked, such as the last of the
notes, so that small LLMs can judge, too. The margin of q is the lift of the record's answer minus
the largest other one, as a mean over two orders of the notes. A paraphrase is kept if its margin
is large: the question then speaks for this answer more than for any other.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine import offline
from errata.engine.sampling import Sampling
from errata.errors import InvalidEditError, InvalidRequestError
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
_DRAWS = 200  # of facts, in search of those
_NEUTRAL = ("What do the notes say?", "Which name is in the notes?")
_AT_ONCE = 16  # prompts of a pass, which bounds memory

Note = tuple[str, str]
"""A prompt about a subject, and its answer."""


@dataclass(frozen=True, slots=True)
class Paraphrasing:
    """How paraphrases are made.

    Attributes:
        samples: questions that are sampled for a record.
        keep: most paraphrases that are kept of them, those with the largest margins.
        margin: nats.
        temperature: of sampling.
        seed: chooses samples and notes.
    """

    samples: int = 4
    keep: int = 2
    margin: float = 1.0
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            InvalidRequestError: one is out of range.
        """
        for name in ("margin", "temperature"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidRequestError(f"{name} must be a number from 0 on.", field=name)


@dataclass(frozen=True, slots=True)
class Paraphrases:
    """The paraphrases of a record.

    Attributes:
        kept: the best first.
        num_asked: sampled questions that could be paraphrases (`asking`).
    """

    kept: tuple[str, ...] = ()
    num_asked: int = 0


class Paraphraser:
    """Makes paraphrases with an LLM, of records of one data set.

    Notes and seeds of a record do not depend on the records that it is asked with; the last bits of
    probabilities do, as in every batch.

    Attributes:
        digest: of the LLM.
    """

    def __init__(self, model: CausalLM, records: Sequence[Record], settings: Paraphrasing) -> None:
        """Reads the relations of the records; notes are made of them.

        Args:
            model: any causal LM; a chat template is not used.
            records: whole data set.
            settings: of all paraphrases.

        Raises:
            InvalidRequestError: all records are of one relation, so that there are no other notes.
        """
        self.digest = model.digest
        self._model, self._local, self._settings = model, LocalModel(model), settings
        self._relations = Relations(records)
        known = ((record, self._relations.of(record)) for record in records)
        self._facts = [(record, relation) for record, relation in known if relation]
        if len({relation for _, relation in self._facts}) < 2:
            raise InvalidRequestError(
                "all records are of one relation; paraphrases are told apart by others.",
                field="data",
            )

    def paraphrase(self, records: Sequence[Record]) -> list[Paraphrases]:
        """Paraphrases of each record's prompt; none where it is too long for the LLM."""
        notes = [self._notes(record) for record in records]
        usable = [record for record, found in zip(records, notes, strict=True) if found]
        sampled = iter(self._sampled(usable))
        said = [next(sampled) if found else [] for found in notes]
        asked = [(found, row) for found, row in zip(notes, said, strict=True) if row]
        margins = iter(self.margins(asked))
        return [self._kept(row, next(margins)) if row else Paraphrases() for row in said]

    def audit(self, records: Sequence[Record]) -> dict[str, float | int | None]:
        """What would be kept of the file's own questions.

        Returns:
            `own`, the share that is kept of the records' rephrases; `others`, of the prompts of
            other relations about the same subject, which must not be kept; `num_own` and
            `num_others`, how many were asked. A share of nothing is None.
        """
        rows = [(record, notes) for record in records if (notes := self._notes(record))]
        own = self.margins([(notes, record.rephrases) for record, notes in rows])
        others = self.margins([(notes, [text for text, _ in notes[1:]]) for _, notes in rows])
        return {
            "own": self._share(own),
            "others": self._share(others),
            "num_own": sum(map(len, own)),
            "num_others": sum(map(len, others)),
        }

    def margins(self, asked: Sequence[tuple[Sequence[Note], Sequence[str]]]) -> list[list[float]]:
        """The margins of questions about notes, in nats; the first note is the right one."""
        prompts = [
            prompt
            for notes, questions in asked
            for prompt in prompts_of(notes, (*_NEUTRAL, *questions))
        ]
        answers: list[list[int]] = []
        for notes, questions in asked:
            tokens = [self._first_token(answer) for _, answer in notes]
            answers += [tokens] * (2 * (len(_NEUTRAL) + len(questions)))
        log_p = self._log_p(prompts, answers)
        found = []
        for _, questions in asked:
            size = len(_NEUTRAL) + len(questions)
            by_order = torch.stack([next(log_p) for _ in range(2 * size)]).unflatten(0, (2, size))
            neutral = by_order[:, : len(_NEUTRAL)].mean(1, keepdim=True)
            lift = (by_order[:, len(_NEUTRAL) :] - neutral).mean(0)
            found.append((lift[:, 0] - lift[:, 1:].amax(1)).tolist())
        return found

    def _share(self, margins: Sequence[Sequence[float]]) -> float | None:
        flat = [margin >= self._settings.margin for row in margins for margin in row]
        return sum(flat) / len(flat) if flat else None

    def _kept(self, said: Sequence[str], margins: Sequence[float]) -> Paraphrases:
        ranked = sorted(zip(margins, said, strict=True), key=lambda row: (-row[0], row[1]))
        enough = [text for margin, text in ranked if margin >= self._settings.margin]
        return Paraphrases(tuple(enough[: self._settings.keep]), len(said))

    def _sampled(self, records: Sequence[Record]) -> list[list[str]]:
        """The questions of each record, as the LLM says them."""
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
        starts = range(0, len(said), settings.samples)
        return [
            asking(record, said[first : first + settings.samples])
            for first, record in zip(starts, records, strict=True)
        ]

    def _notes(self, record: Record) -> list[Note]:
        """Statements about the record's subject and their answers; the record's own first.

        Empty if there are no others, or if the LLM cannot read a question about them.
        """
        try:
            notes = self._drawn(record)
            longest = max((*_NEUTRAL, record.prompt, *record.rephrases), key=len)
            texts = (request(record), prompts_of(notes, [longest])[0])
            size = max(len(tokenise(self._model, text).ids) for text in texts)
        except InvalidEditError:
            return []
        is_read = size + _MAX_TOKENS <= self._model.max_positions
        return notes if len(notes) > 1 and is_read else []

    def _drawn(self, record: Record) -> list[Note]:
        notes = [(record.prompt, record.target_new)]
        relations = {self._relations.of(record)}
        tokens = {self._first_token(record.target_new)}
        rng = random.Random(f"{self._settings.seed}/{record.prompt}/{record.target_new}")
        for _ in range(_DRAWS):
            other, relation = rng.choice(self._facts)
            token = self._first_token(other.target_new)
            if relation in relations or token in tokens:
                continue
            notes.append((other.prompt.replace(other.subject, record.subject), other.target_new))
            relations.add(relation)
            tokens.add(token)
            if len(notes) > _NUM_OTHERS:
                break
        return notes

    def _log_p(self, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Natural log-probabilities of each prompt's possible next tokens, each (n,) fp32."""
        rows = [tokenise(self._model, prompt).ids for prompt in prompts]
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(rows), _AT_ONCE):
            chunk = by_length[start : start + _AT_ONCE]
            made = offline.next_token(self._model, [rows[number] for number in chunk])
            for number, row in zip(chunk, made, strict=True):
                found[number] = row[list(tokens[number])].cpu()
        return iter(found)

    def _first_token(self, answer: str) -> int:
        row = tokenise(self._model, "Answer:", answer)
        return row.ids[-row.num_target]


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


def request(record: Record) -> str:
    """The text that an LLM continues with a question for a record's answer."""
    shown = [
        f"Prompt: {prompt}\nAnswer: {answer}\nIn other words: {question}"
        for prompt, answer, question in _EXAMPLES
    ]
    own = f"Prompt: {record.prompt}\nAnswer: {record.target_new}\nIn other words:"
    return "\n\n".join([_INTRODUCTION, *shown, own])


def prompts_of(notes: Sequence[Note], questions: Sequence[str]) -> list[str]:
    """The texts that an LLM continues with an answer, first with the notes in their order.

    Returns:
        Every question behind the notes, then every question behind the notes in reverse order.
    """
    said = [f"{prompt} {answer}." for prompt, answer in notes]
    return [
        "\n".join([*order, "", f"Question: {question}", "Answer:"])
        for order in (said, said[::-1])
        for question in questions
    ]


def _bare(text: str) -> str:
    return text.rstrip("?. ").casefold()
