"""Questions about general ability, to measure side effects of editing.

A file has JSON lines, each a multiple-choice question or an open one:

    {"question": "Water freezes at", "choices": ["0 °C", "50 °C"], "answer": 0}
    {"question": "The capital of France is", "answer": "Paris"}

or it is the `task.json` of a multiple-choice task of BIG-bench (Srivastava et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from errata.errors import InvalidRequestError
from errata.evaluation.data.fields import Fields, read_lines, read_object

_TASK = "task.json"


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


def name_of(path: Path) -> str:
    """The name of a file's figures: its own without the ending, or that of its BIG-bench task."""
    return path.resolve().parent.name if path.name == _TASK else path.stem


def load_general(path: Path) -> list[GeneralQuestion]:
    """Reads a file of questions.

    Raises:
        InvalidRequestError: the message names file, line and field.
    """
    if path.name == _TASK:
        return _task(path)
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


def _task(path: Path) -> list[GeneralQuestion]:
    """The questions of a BIG-bench task that have a single best answer; choices are not listed."""
    task = read_object(path)
    described = task.raw_text("task_prefix", "")
    before = (described + task.raw_text("example_input_prefix", "\nQ: ")).lstrip()
    after = task.raw_text("example_output_prefix", "\nA: ").rstrip()
    questions = []
    for example in task.inners("examples"):
        scores = example.inner("target_scores").numbers()
        best = [choice for choice, score in scores.items() if score == max(scores.values())]
        if len(best) == 1 and len(scores) > 1:
            question = f"{before}{example.text('input')}{after}"
            questions.append(GeneralQuestion(question, tuple(scores), best[0]))
    if not questions:
        raise InvalidRequestError(
            f"{path} has no question with a single best answer among several.", field="retention"
        )
    return questions
