"""Finds edits on the same matter as another one: same prompt, or same subject and wording.

Only edits of the same namespace are compared, whether or not they are in a canary.

A wording is a prompt or a rephrase without the subject, so that "The capital of France is" and "The
capital of Spain is" share one, and two edits of France that share one state the same relation.
"""

from __future__ import annotations

import heapq
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from errata.editing.chat import said
from errata.editing.edit import Edit
from errata.editing.lane.inventory import fact_of
from errata.editing.namespaces import own_namespace
from errata.writer.record import order_of

Key = tuple[str, str]
"""Namespace and digest of a matter."""
MAX_SHOWN = 20
"""Most conflicts that are named for one edit: the newest ones."""


class Kind(Enum):
    """How an earlier edit is in conflict with a new one.

    SUPERSEDES: the same prompt and lane; the new edit answers instead.
    CONTRADICTS: another target in another lane, or for another prompt of the same meaning.
    REPEATS: the same target.
    """

    SUPERSEDES = "supersedes"
    CONTRADICTS = "contradicts"
    REPEATS = "repeats"


@dataclass(frozen=True, slots=True)
class Matter:
    """What identifies the matter of an edit.

    Attributes:
        namespace: edits of different namespaces are on different matters.
        fact: digest of the prompt.
        subject: normalised.
        wordings: of the prompt and the rephrases, normalised.
    """

    namespace: str
    fact: str
    subject: str
    wordings: frozenset[str]

    @classmethod
    def of(cls, edit: Edit) -> Matter:
        """The matter of an edit."""
        subject = _plain(edit.subject)
        texts = (said(prompt) for prompt in (edit.prompt, *edit.rephrases))
        wordings = frozenset(_plain(text).replace(subject, "\0") for text in texts)
        namespace = own_namespace(edit.namespace)
        return cls(namespace, fact_of(edit.said), subject, wordings)

    @property
    def keys(self) -> Iterator[Key]:
        """Two edits are on the same matter if they share one of these."""
        yield self.namespace, self.fact
        for wording in self.wordings:
            yield self.namespace, fact_of(f"{self.subject}\n{wording}")


@dataclass(frozen=True, slots=True)
class Conflict:
    """An earlier edit on the same matter.

    Attributes:
        index: of the new edit in its request.
        kind: what the new edit does to it.
        name: of the earlier edit.
    """

    index: int
    kind: Kind
    name: str


class ConflictIndex:
    """Edits by matter: finding the conflicts of an edit reads no other edits."""

    def __init__(self) -> None:
        """Holds none."""
        self._names: defaultdict[Key, list[str]] = defaultdict(list)  # names in log order

    def add(self, edit: Edit) -> None:
        """Adds an edit that is newer than all others.

        Edits are never removed, because what counts is their state when asked.
        """
        for key in Matter.of(edit).keys:
            self._names[key].append(edit.name)

    def find(
        self,
        index: int,
        edit: Edit,
        lane: str,
        known: Callable[[Edit, str], tuple[Edit, str] | None],
    ) -> Iterator[Conflict]:
        """The earlier edits on the same matter, newest first.

        Args:
            index: of the edit in its request.
            edit: the new one; one without a name is newer than all.
            lane: of the new one.
            known: for the new edit, gives an earlier one and its lane; None if it does not count.
        """
        matter, target, num_found = Matter.of(edit), _plain(edit.target), 0
        for name in self._candidates(matter):
            if num_found == MAX_SHOWN:
                return
            found = known(edit, name)
            is_later = bool(edit.name) and order_of(name) >= order_of(edit.name)
            if found is None or is_later:
                continue
            num_found += 1
            other, other_lane = found
            yield Conflict(index, _kind(matter, target, lane, other, other_lane), name)

    def same_prompt(self, edit: Edit) -> list[str]:
        """Names of all edits with this prompt and namespace, newest first."""
        key = own_namespace(edit.namespace), fact_of(edit.said)
        return self._names.get(key, [])[::-1]

    def _candidates(self, matter: Matter) -> Iterator[str]:
        """Names of edits on the matter, newest first, read only as far as they are asked for."""
        lists = [reversed(self._names[key]) for key in matter.keys if key in self._names]
        last = ""
        for name in heapq.merge(*lists, key=order_of, reverse=True):
            if name != last:
                yield name
            last = name


def _kind(matter: Matter, target: str, lane: str, other: Edit, other_lane: str) -> Kind:
    if _plain(other.target) == target:
        return Kind.REPEATS
    is_same = fact_of(other.said) == matter.fact and other_lane == lane
    return Kind.SUPERSEDES if is_same else Kind.CONTRADICTS


def _plain(text: str) -> str:
    """A text without case, doubled white space and the marks at its end."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(" .:?!…")
