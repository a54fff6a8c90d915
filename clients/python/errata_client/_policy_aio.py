"""Previews and probe sets for the asynchronous client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeVar

from errata_client import _policy_calls, policy, types
from errata_client._calls import Call

T = TypeVar("T")


class AsyncPolicyCalls(ABC):
    """What `AsyncClient` offers beside single edits and answers."""

    @abstractmethod
    async def _call(self, call: Call[T], timeout: float | None) -> T: ...

    async def preview_edits(
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
            lane: `lanes/{lane}`; the default lane if empty.
            timeout: seconds.

        Raises:
            InvalidEditError: a field is unusable.
            QueueFullError: other previews wait already; its message says what to do.
            UnavailableError: edits that are due went first all the time.
        """
        return await self._call(_policy_calls.preview_edits(edits, lane), timeout)

    async def set_probes(
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
        return await self._call(_policy_calls.set_probes(prompts, author, request_id), timeout)

    async def probes(self, *, timeout: float | None = None) -> policy.ProbeSet:
        """The deployment's probe set."""
        return await self._call(_policy_calls.get_probes(), timeout)
