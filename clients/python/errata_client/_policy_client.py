"""Previews, reviews and probe sets for the synchronous client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeVar

from errata_client import _policy_calls, policy, types
from errata_client._calls import Call

T = TypeVar("T")


class PolicyCalls(ABC):
    """What `Client` offers beside single edits and answers."""

    @abstractmethod
    def _call(self, call: Call[T], timeout: float | None) -> T: ...

    def preview_edits(
        self,
        edits: Iterable[types.EditSpec],
        *,
        lane: str = "",
        timeout: float | None = None,
    ) -> list[policy.Preview]:
        """What corrections would do, each by itself; nothing is committed.

        Each is fitted and checked as after a submission, so this takes as long.

        Args:
            edits: at least one, at most as many as the writer fits in one batch.
            lane: `lanes/{lane}`; if empty, that of the edits' canaries, or the default lane.
            timeout: seconds.

        Raises:
            InvalidEditError: a field is unusable.
            QueueFullError: other previews wait already; its message says what to do.
            UnavailableError: edits that are due went first all the time.
        """
        return self._call(_policy_calls.preview_edits(edits, lane), timeout)

    def preview_waiting(
        self, names: Sequence[str], *, timeout: float | None = None
    ) -> list[policy.Preview]:
        """As `preview_edits`, for edits of one lane that are proposed or scheduled."""
        return self._call(_policy_calls.preview_names(names), timeout)

    def approve(
        self,
        names: Sequence[str],
        *,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> policy.Decision:
        """Approves proposed edits; each is fitted and checked from then on.

        Args:
            names: edits, such as `edits/12-0`; all of them are approved, or none.
            comment: why; kept in the log.
            author: who approves them, where calls are not authenticated.
            request_id: a UUID for retries; a new one if None.
            timeout: seconds.

        Raises:
            PermissionDeniedError: the caller would approve his own edit, or is no approver.
            PreconditionError: an edit is not proposed any more, or a newer one supersedes it.
        """
        call = _policy_calls.review_edits(names, True, comment, author, request_id)
        return self._call(call, timeout)

    def reject(
        self,
        names: Sequence[str],
        *,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> policy.Decision:
        """Rejects proposed edits; arguments and errors as for `approve`, with a comment."""
        call = _policy_calls.review_edits(names, False, comment, author, request_id)
        return self._call(call, timeout)

    def withdraw(
        self,
        names: Sequence[str],
        *,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> policy.Decision:
        """Withdraws the caller's own edits that are proposed or scheduled.

        Arguments as for `approve`; operators can withdraw edits of others.

        Raises:
            PermissionDeniedError: an edit is another author's.
            PreconditionError: an edit is neither proposed nor scheduled.
        """
        call = _policy_calls.withdraw_edits(names, comment, author, request_id)
        return self._call(call, timeout)

    def set_probes(
        self,
        prompts: Sequence[types.Prompt],
        *,
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Replaces the deployment's probe set: prompts that edits should not change.

        Args:
            prompts: texts and conversations; none empties the set.
            author: who sets it.
            request_id: a UUID for retries; a new one if None.
            timeout: seconds.

        Returns:
            The position of the entry that holds it.
        """
        return self._call(_policy_calls.set_probes(prompts, author, request_id), timeout)

    def probes(self, *, timeout: float | None = None) -> policy.ProbeSet:
        """The deployment's probe set."""
        return self._call(_policy_calls.get_probes(), timeout)
