"""One row of a file of corrections, and what identifies its content."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from errata_client import EditSpec


@dataclass(frozen=True, slots=True)
class Row:
    """One correction of a file.

    Attributes:
        number: of the row, from 1; the header of a table does not count.
        spec: the correction.
        lane: that the file names for it; empty if none.
    """

    number: int
    spec: EditSpec
    lane: str = ""

    def request_id(self, lane: str, author: str) -> str:
        """The request id of this content from this author; the same in every file and every run.

        So a row that was sent before is not sent a second time, wherever an import was interrupted.
        """
        spec = self.spec
        content = [
            *(lane, author),
            *(spec.prompt, spec.target, spec.subject, spec.source, spec.separator),
            list(spec.rephrases),
            list(spec.locality_probes),
        ]
        if spec.effective_from is not None or spec.expires_at is not None:
            content += [_instant(spec.effective_from), _instant(spec.expires_at)]
        if self.namespace:
            content += ["namespace", self.namespace]
        if spec.canary:
            content += ["canary", spec.canary]
        digest = hashlib.sha256(
            json.dumps(content, ensure_ascii=True, default=repr).encode()
        ).digest()
        return str(uuid.UUID(bytes=digest[:16], version=4))  # the form that services demand

    @property
    def namespace(self) -> str:
        """Its namespace; empty for the default one, however it is written."""
        return "" if self.spec.namespace == "default" else self.spec.namespace

    @property
    def fact(self) -> tuple[str, str, str]:
        """Where it is read, and its prompt, for comparison: without case and doubled white space.

        The same prompt in a canary and outside of it has two targets, which contradict nothing.
        """
        text = unicodedata.normalize("NFC", str(self.spec.prompt))
        return self.namespace, self.spec.canary, " ".join(text.split()).casefold()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rows that correct one prompt to different targets.

    Attributes:
        prompt: as the first of them has it.
        rows: their numbers and targets, in the file's order.
    """

    prompt: str
    rows: tuple[tuple[int, str], ...]


def conflicts(rows: Sequence[Row]) -> list[Conflict]:
    """The prompts with more than one target."""
    by_fact: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_fact.setdefault(row.fact, []).append(row)
    return [
        Conflict(str(same[0].spec.prompt), tuple((row.number, row.spec.target) for row in same))
        for same in by_fact.values()
        if len({row.spec.target.strip() for row in same}) > 1
    ]


def last_of_each(rows: Sequence[Row]) -> list[Row]:
    """The rows that correct what no later row corrects to another target."""
    newest = {row.fact: row.spec.target.strip() for row in rows}
    return [row for row in rows if newest[row.fact] == row.spec.target.strip()]


def with_source(rows: Sequence[Row], source: str) -> list[Row]:
    """Rows that name no source get this one."""
    return [
        row if row.spec.source else replace(row, spec=replace(row.spec, source=source))
        for row in rows
    ]


def with_namespace(rows: Sequence[Row], namespace: str) -> list[Row]:
    """Rows that name no namespace get this one."""
    return [
        row if row.spec.namespace else replace(row, spec=replace(row.spec, namespace=namespace))
        for row in rows
    ]


def with_canary(rows: Sequence[Row], canary: str) -> list[Row]:
    """Rows that name no canary get this one."""
    return [
        row if row.spec.canary else replace(row, spec=replace(row.spec, canary=canary))
        for row in rows
    ]


def _instant(time: datetime | None) -> str:
    """A time, however it was written; one without a zone is local time."""
    return "" if time is None else time.astimezone(UTC).isoformat()
