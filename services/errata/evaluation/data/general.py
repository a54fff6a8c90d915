"""Questions about general ability, in JSON lines, to measure side effects of editing.

A line is either a multiple-choice question or an open one:

    {"question": "Water freezes at", "choices": ["0 °C", "50 °C"], "answer": 0}
    {"question": "The capital of France is", "answer": "Paris"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from errata.evaluation.data.fields import Fields, read_lines


@dataclass(frozen=True, slots=True)
class GeneralQuestion:
    """A question; `choices` is empty for an open one.

    Attributes:
        question: text before each choice or the answer.
        choices: of which one is right.
        answer: the right choice, or the answer to an open question.
    """

    question: str
    choices: tuple[str, ...]
    answer: str


def load_general(path: Path) -> list[GeneralQuestion]:
    """Reads a file of questions.

    Raises:
        InvalidRequestError: the message names file, line and field.
    """
    return [_question(fields) for fields in read_lines(path)]


def _question(fields: Fields) -> GeneralQuestion:
    question = fields.text("question")
    if "choices" not in fields:
        return GeneralQuestion(question, (), fields.text("answer"))
    choices, answer = fields.texts("choices"), fields.number("answer")
    if len(set(choices)) < max(2, len(choices)):
        raise fields.error("choices", "must be at least two texts, all different")
    if not 0 <= answer < len(choices):
        raise fields.error("answer", f"must be the index of a choice, 0 to {len(choices) - 1}")
    return GeneralQuestion(question, choices, choices[answer])
