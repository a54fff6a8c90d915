"""ZsRE (Levy et al., 2017) in the layout of MEND's authors: questions and their new answers."""

from __future__ import annotations

from pathlib import Path

from errata.evaluation.data.fields import Fields, check_subject, read_array
from errata.evaluation.data.record import Record


def load_zsre(path: Path) -> list[Record]:
    """Reads a JSON array with `src`, `alt`, `subject`, `rephrase`, `loc` and `loc_ans`.

    `alt` is the new answer. The old ones, `answers`, are in some files and are ignored: no figure
    of this data set uses them. `paraphrases`, of `errata bench paraphrase`, are more rephrases.

    Raises:
        InvalidRequestError: the message names file, record and field.
    """
    return [_record(fields, number) for number, fields in enumerate(read_array(path))]


def _record(fields: Fields, number: int) -> Record:
    record = Record(
        case_id=str(fields.number("case_id") if "case_id" in fields else number),
        prompt=fields.text("src"),
        subject=fields.text("subject"),
        target_new=fields.text("alt"),
        target_true=None,
        rephrases=(fields.text("rephrase"), *fields.optional_texts("paraphrases")),
        locality=((fields.text("loc"), fields.text("loc_ans")),),
    )
    check_subject(fields, record.subject, record.prompt)
    return record
