"""CounterFact records from either public layout, every field checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.editing.edit import Edit
from errata.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Record:
    """One counterfactual.

    Attributes:
        case_id: of the data set.
        prompt: contains `subject`.
        subject: whom the fact is about.
        target_new: the counterfactual object.
        target_true: the true object.
        rephrases: other prompts about the same fact.
        locality: prompts about neighbours, each with its own true object.
    """

    case_id: int
    prompt: str
    subject: str
    target_new: str
    target_true: str
    rephrases: tuple[str, ...]
    locality: tuple[tuple[str, str], ...]

    def edit(self, name: str) -> Edit:
        """The edit that makes the counterfactual true."""
        return Edit(
            name=name,
            prompt=self.prompt,
            target=self.target_new,
            subject=self.subject,
            rephrases=self.rephrases,
            locality_probes=tuple(prompt for prompt, _ in self.locality),
        )


def load_counterfact(path: str | Path) -> list[Record]:
    """Reads a JSON array of records, in the flat layout or the original nested one.

    Flat: `prompt`, `subject`, `target_new`, `ground_truth`, `rephrase_prompt`, `locality_prompt`,
    `locality_ground_truth`. Nested: `requested_rewrite`, `paraphrase_prompts`,
    `neighborhood_prompts`; the neighbours share the true object there.

    Raises:
        InvalidRequestError: no such file, no JSON array, or a field that is missing, empty or of
            another type; the message names file, record and field.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be read ({error.strerror}); give a CounterFact JSON file.", field="data"
        ) from error
    except ValueError as error:
        raise InvalidRequestError(f"{path} is not JSON: {error}.", field="data") from error
    if not isinstance(data, list) or not data:
        raise InvalidRequestError(f"{path} holds no JSON array of records.", field="data")
    return [_record(_Fields(item, f"{path}, record {i}"), i) for i, item in enumerate(data)]


def _record(fields: _Fields, number: int) -> Record:
    if "requested_rewrite" in fields.values:
        record = _nested(fields)
    else:
        record = Record(
            case_id=fields.number("case_id") if "case_id" in fields.values else number,
            prompt=fields.text("prompt"),
            subject=fields.text("subject"),
            target_new=fields.text("target_new"),
            target_true=fields.text("ground_truth"),
            rephrases=(fields.text("rephrase_prompt"),),
            locality=((fields.text("locality_prompt"), fields.text("locality_ground_truth")),),
        )
    if record.subject not in record.prompt:
        raise fields.error("subject", f"{record.subject!r} does not occur in the prompt")
    return record


def _nested(fields: _Fields) -> Record:
    rewrite = fields.inner("requested_rewrite")
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if template.count("{}") != 1:
        raise rewrite.error("prompt", "must contain {} once, for the subject")
    true = rewrite.inner("target_true").text("str")
    return Record(
        case_id=fields.number("case_id"),
        prompt=template.replace("{}", subject),
        subject=subject,
        target_new=rewrite.inner("target_new").text("str"),
        target_true=true,
        rephrases=fields.texts("paraphrase_prompts"),
        locality=tuple((prompt, true) for prompt in fields.texts("neighborhood_prompts")),
    )


class _Fields:
    """Typed access to one JSON object, with errors that say where."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise InvalidRequestError(f"{where}: is not a JSON object.", field="data")
        self.values: dict[str, Any] = values
        self._where = where

    def error(self, name: str, problem: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self._where}, field {name}: {problem}.", field="data")

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "must be a text that is not empty")
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            raise self.error(name, "must be a list of texts")
        if not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(name, "holds an item that is no text or is empty")
        return tuple(item.strip() for item in value)

    def number(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int):
            raise self.error(name, "must be a whole number")
        return value

    def inner(self, name: str) -> _Fields:
        return _Fields(self.values.get(name), f"{self._where}, field {name}")
