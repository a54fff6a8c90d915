"""The fold of the log as pages of JSON: one for all but the edits, then the edits in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from errata.editing.lane.pages import page_ends
from errata.errors import ArtifactCorruptError
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json


def fold_pages(fold: LogFold, commit_seq: Mapping[str, int]) -> Iterator[bytes]:
    """The pages of a fold; `read_fold` reads them.

    Args:
        fold: nobody changes it meanwhile.
        commit_seq: edits → position of their commit.
    """
    values = fold_to_json(fold)
    edits = [[*e[:3], commit_seq.get(e[0], 0), *e[3:]] for e in values.pop("edits")]
    yield json_page(values)
    yield from json_pages(edits, [edit[0] for edit in edits])


def read_fold(pages: Sequence[bytes]) -> tuple[LogFold, dict[str, int]]:
    """The fold, and the position of each edit's commit.

    Raises:
        ArtifactCorruptError: these are not the pages of a fold.
    """
    try:
        fold = fold_from_json({**json.loads(pages[0]), "edits": ()})
        commit_seq: dict[str, int] = {}
        for page in pages[
            1:
        ]:  # one at a time: a list for each of a million edits slows Python down
            edits = json.loads(page)
            fold.restore_standings([*edit[:3], *edit[4:]] for edit in edits)
            commit_seq.update((edit[0], int(edit[3])) for edit in edits if edit[3])
        return fold, commit_seq
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ArtifactCorruptError(
            f"the fold in the snapshot cannot be read ({type(error).__name__})."
        ) from error


def json_page(value: object) -> bytes:
    """One page; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def json_pages(items: Sequence[object], identities: Sequence[str]) -> Iterator[bytes]:
    """Items as pages of a JSON list each; see `pages.page_ends`."""
    start = 0
    for end in page_ends((identity.encode(), 0) for identity in identities):
        yield json_page(items[start:end])
        start = end
