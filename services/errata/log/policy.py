"""Checks of entries about policy: probe sets, approval, reviews, times."""

from __future__ import annotations

from collections.abc import Callable, Collection

from errata.editing.chat import said
from errata.errors import InvalidRequestError, PreconditionError
from errata.log.entries import EditsReleased, EditsRequested, EditsReviewed, ProbesSet, Verdict
from errata.log.forms import check_some
from errata.log.standing import Known, Standing

AFTER = {
    Verdict.APPROVED: Standing.REQUESTED,
    Verdict.REJECTED: Standing.REJECTED,
    Verdict.WITHDRAWN: Standing.WITHDRAWN,
}
"""Standings of edits after a review, if they wait for no time."""
WAITING = (Standing.PROPOSED, Standing.SCHEDULED)
"""Standings of edits that wait for a decision or a time."""


def check_probes(payload: ProbesSet) -> None:
    """Returns if a probe set can be this one; it may be empty.

    Raises:
        InvalidRequestError: a prompt has no text.
    """
    for index, prompt in enumerate(payload.prompts):
        if not said(prompt).strip():
            raise InvalidRequestError(
                f"prompts[{index}] is empty; fill it in, or leave it out.",
                field=f"prompts[{index}]",
            )


def check_schedules(payload: EditsRequested) -> None:
    """Returns if each edit begins before it ends.

    Raises:
        InvalidRequestError: one does not, or not all edits have a schedule.
    """
    if payload.schedules and len(payload.schedules) != len(payload.edits):
        raise InvalidRequestError("not every edit has a schedule.", field="edits")
    for index, (_, times) in enumerate(payload.scheduled()):
        begin, end = times.effective_from, times.expires_at
        if begin is not None and end is not None and end <= begin:
            raise InvalidRequestError(
                f"edits[{index}] expires before it begins.", field=f"edits[{index}].expires_at"
            )


def check_release(payload: EditsReleased, known: Callable[[str], Known]) -> None:
    """Returns if the edits wait for their time.

    Raises:
        InvalidRequestError: it names no edit, or one twice.
        PreconditionError: an edit does not wait for a time.
    """
    check_some(payload.edits)
    for name in payload.edits:
        standing = known(name).standing
        if standing is not Standing.SCHEDULED:
            raise PreconditionError(
                f"{name} is {standing}, and not scheduled.", edit=name, state=standing
            )


def check_review(payload: EditsReviewed, known: Callable[[str], Known]) -> None:
    """Returns if the edits wait for this decision.

    Args:
        payload: the decision.
        known: an edit's lane and state; raises NotFoundError.

    Raises:
        InvalidRequestError: it names nobody, no edit, or one twice.
        PreconditionError: an edit does not wait for it.
    """
    check_some(payload.edits)
    if not payload.reviewer.strip():
        raise InvalidRequestError("it does not say who decided.", field="reviewer")
    allowed: Collection[Standing] = (Standing.PROPOSED,)
    if payload.verdict is Verdict.WITHDRAWN:
        allowed = WAITING
    for name in payload.edits:
        standing = known(name).standing
        if standing not in allowed:
            raise PreconditionError(
                f"{name} is {standing}, and not {' or '.join(allowed)}.", edit=name, state=standing
            )
