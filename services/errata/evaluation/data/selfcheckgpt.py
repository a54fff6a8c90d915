"""SelfCheckGPT (Manakul et al., 2023) as GRACE's authors use it: invented sentences replaced."""

from __future__ import annotations

import re
from pathlib import Path

from errata.evaluation.data.fields import Fields, read_array
from errata.evaluation.data.record import Record


def load_selfcheckgpt(path: Path) -> list[Record]:
    """Reads a JSON array with `prompt`, `target_new`, `subject` and the locality pair.

    The prompt is a passage and the target its next sentence. The subject is spelled as in its last
    occurrence in the passage. Some published records have a locality text without an answer; those
    have no locality probe.

    Raises:
        InvalidRequestError: the message names file, record and field.
    """
    return [_record(fields, number) for number, fields in enumerate(read_array(path))]


def _record(fields: Fields, number: int) -> Record:
    prompt, subject = fields.text("prompt"), fields.text("subject")
    places = re.findall(re.escape(subject), prompt, flags=re.IGNORECASE)
    if not places:
        raise fields.error("subject", f"{subject!r} does not occur in the prompt")
    return Record(
        case_id=str(number),
        prompt=prompt,
        subject=places[-1],
        target_new=fields.text("target_new"),
        target_true=None,
        locality=_locality(fields),
    )


def _locality(fields: Fields) -> tuple[tuple[str, str], ...]:
    prompt = fields.text("locality_prompt")
    if fields.is_blank("locality_ground_truth"):
        return ()
    return ((prompt, fields.text("locality_ground_truth")),)
