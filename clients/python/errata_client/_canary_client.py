"""Canaries for the synchronous client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from errata_client import _canary_calls
from errata_client._calls import Call, Page
from errata_client._session import Session
from errata_client.canary import Canary, CanaryRule

T = TypeVar("T")


class CanaryCalls(ABC):
    """What `Client` offers to try edits on a part of the requests first."""

    session: Session

    @abstractmethod
    def _call(self, call: Call[T], timeout: float | None) -> T: ...

    @abstractmethod
    def _pages(
        self, page: Callable[[str], Call[Page[T]]], timeout: float | None
    ) -> Iterator[T]: ...

    def set_canary(
        self,
        name: str,
        share: float,
        *,
        lane: str = "",
        namespace: str = "",
        readers: str | Sequence[str] = (),
        rule: CanaryRule | None = None,
        must_be_new: bool = False,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Canary:
        """Opens a canary, or changes the audience and the rule of an open one.

        What is not given is not kept: without `readers` and `rule` the canary has none. Only its
        comment stays if no other is given.

        Args:
            name: `canaries/{canary}`; no canary ever had it, or it is open.
            share: of the requests that read the namespace, 0 to 1.
            lane: of its edits, `lanes/{lane}`; the default lane if empty. It cannot change.
            namespace: of its edits; the default one if empty or `default`. It cannot change.
            readers: requests that read one of these namespaces as well are in it.
            rule: ends it by itself; if None, only people end it.
            must_be_new: only open it; refused if it is open already.
            comment: why; kept in the log.
            author: who sets it, where calls are not authenticated.
            request_id: a UUID for retries; a new one if None.
            timeout: seconds.

        Returns:
            The canary. From its `set_seq` on, every replica decides by it.

        Raises:
            InvalidRequestError: a form is impossible, or the lane decides nothing per request.
            PreconditionError: it has ended, is of another lane or namespace, or is open and must
                be new.
            LimitExceededError: too many are open, or too many readers are named.
        """
        call = _canary_calls.set_canary(
            name,
            share,
            lane,
            namespace,
            readers,
            rule,
            must_be_new,
            comment,
            author,
            request_id,
        )
        return self._seen(self._call(call, timeout))

    def promote_canary(
        self,
        name: str,
        *,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Canary:
        """Ends a canary: its edits are in force for every request that reads their namespace.

        Args:
            name: `canaries/{canary}`.
            comment: why; kept in the log.
            author: who ends it, where calls are not authenticated.
            request_id: a UUID for retries; a new one if None.
            timeout: seconds; a fit that runs ends first.

        Returns:
            The canary. From its `ended_seq` on, every replica decides by it.

        Raises:
            PreconditionError: it is not open or is being rolled back, or its audience or rule
                changed while the promotion waited for a fit; ask again.
        """
        call = _canary_calls.end_canary(name, True, comment, author, request_id)
        return self._seen(self._call(call, timeout))

    def roll_back_canary(
        self,
        name: str,
        *,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Canary:
        """Ends a canary: its edits are reverted, and those not yet committed rejected.

        No request is in it any more at once; the end itself comes after a fit that runs. Arguments
        and errors as for `promote_canary`.
        """
        call = _canary_calls.end_canary(name, False, comment, author, request_id)
        return self._seen(self._call(call, timeout))

    def list_canaries(
        self, *, only_open: bool = False, timeout: float | None = None
    ) -> Iterator[Canary]:
        """Canaries, newest first, with what replicas counted.

        Args:
            only_open: leave out those that ended.
            timeout: seconds for each page.
        """
        return self._pages(lambda token: _canary_calls.list_canaries(only_open, token), timeout)

    def get_canary(self, name: str, *, timeout: float | None = None) -> Canary:
        """One canary, open or ended, with what replicas counted.

        Raises:
            InvalidRequestError: the name is empty.
            NotFoundError: there is none of this name.
        """
        return self._call(_canary_calls.get_canary(name), timeout)

    def _seen(self, canary: Canary) -> Canary:
        """Later answers of this client are decided by it."""
        newest = max(canary.set_seq, canary.ended_seq)
        self.session.last_seq = max(self.session.last_seq, newest)
        return canary
