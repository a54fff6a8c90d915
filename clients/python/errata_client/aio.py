"""The asynchronous client: the operations of `Client` as coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from errata_client import _calls, _failures, types
from errata_client._canary_aio import AsyncCanaryCalls
from errata_client._catalog_aio import AsyncCatalogCalls
from errata_client._channel import OPTIONS, target_of, timeout_of
from errata_client._credentials import Credentials, async_channel
from errata_client._log_aio import AsyncLogCalls
from errata_client._policy_aio import AsyncPolicyCalls
from errata_client._session import Session, ensure_committed, stubs
from errata_client._trace import outgoing_trace

T = TypeVar("T")


class AsyncClient(AsyncPolicyCalls, AsyncCanaryCalls, AsyncCatalogCalls, AsyncLogCalls):
    """Submits corrections and queries the edited model; belongs to the event loop that made it.

    By default, answers are never older than the edits that this client has waited for; `min_seq`
    overrides this for a call.

    Example:
        >>> async with AsyncClient("127.0.0.1:7700") as errata:
        ...     edit = await errata.edit("The capital of France is", "Lyon", subject="France")
        ...     print((await errata.generate("The capital of France is")).text)
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Connects lazily.

        Args:
            target: `host:port` of the gateway, or any gRPC target such as `dns:///name:port`; if
                None, the value of the variable ERRATA_TARGET, else 127.0.0.1:7700.
            timeout: default time limit of a call, in seconds; if None, the value of the variable
                ERRATA_TIMEOUT, else 60.
            credentials: TLS, token and certificate; if None, those of the environment.

        Raises:
            InvalidRequestError: the timeout is not a positive number, or a file of the credentials
                cannot be read.
        """
        self._target = target_of(target)
        self._timeout = timeout_of(timeout)
        self._channel = async_channel(self._target, OPTIONS, credentials)
        self._stubs = stubs(self._channel)
        self.session = Session()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def edit(
        self,
        prompt: types.Prompt,
        target: str,
        *,
        subject: str = "",
        rephrases: Sequence[types.Prompt] = (),
        locality_probes: Sequence[types.Prompt] = (),
        source: str = "",
        separator: str | None = None,
        effective_from: datetime | None = None,
        expires_at: datetime | None = None,
        namespace: str = "",
        canary: str = "",
        lane: str = "",
        author: str = "",
        timeout: float | None = None,
    ) -> types.Edit:
        """Submits one correction and waits until every replica can answer with it.

        In a lane that requires approval it returns the edit as `PROPOSED`, and with a time to come
        as `SCHEDULED`: it has no effect yet.

        Raises:
            EditRejectedError: it could not be fitted or failed its check.
            InvalidEditError: a field is unusable.
            DeadlineExceededError: it was not settled within `timeout`.
        """
        texts = (prompt, target, subject, tuple(rephrases), tuple(locality_probes))
        spec = types.EditSpec(
            *texts, source, separator, effective_from, expires_at, namespace, canary
        )
        accepted = await self.submit_edits([spec], lane=lane, author=author, timeout=timeout)
        return ensure_committed((await self.wait_edits([accepted[0].name], timeout=timeout))[0])

    async def submit_edits(
        self,
        edits: Iterable[types.EditSpec],
        *,
        lane: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> list[types.Edit]:
        """Submits corrections; they are durable in the log on return, and take effect later.

        Args:
            edits: at least one.
            lane: `lanes/{lane}`; if empty, that of the edits' canaries, or the default lane.
            author: who submits them.
            request_id: a UUID for retries; a new one if None.
            timeout: seconds.

        Returns:
            The edits; their `conflicts` are earlier ones on the same matter.
        """
        return await self._call(_calls.submit_edits(edits, lane, author, request_id), timeout)

    async def wait_edits(
        self, names: Sequence[str], *, timeout: float | None = None
    ) -> list[types.Edit]:
        """Waits until no edit is fitted or waits for its fit, or until the timeout.

        It does not wait for decisions on proposed edits, nor for the time of scheduled ones.
        """
        edits = await self._call(_calls.wait_edits(names), timeout)
        self.session.saw(edits)
        return edits

    async def get_edit(self, name: str, *, timeout: float | None = None) -> types.Edit:
        """One edit in its current state."""
        return await self._call(_calls.get_edit(name), timeout)

    def list_edits(
        self,
        state: types.EditState | None = None,
        *,
        lane: str = "",
        author: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        contains: str = "",
        namespace: str | None = None,
        canary: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[types.Edit]:
        """Edits in log order: all, or those that match the filters.

        Args:
            state: their current state.
            lane: `lanes/{lane}`.
            author: who submitted them.
            since: submitted at this time or later; a time without a zone is local time.
            until: submitted before this time.
            contains: text in prompt, target, subject or source, ignoring case.
            namespace: that they belong to; None lists all that the caller may see.
            canary: `canaries/{canary}` that they were submitted to.
            timeout: seconds for each page.
        """
        filters = (state, lane, author, since, until, contains, namespace, canary)
        return self._pages(lambda token: _calls.list_edits(*filters, token), timeout)

    async def revert(
        self,
        names: Sequence[str],
        *,
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> types.Reversal:
        """Reverts committed edits.

        Raises:
            EditNotRevertibleError: an edit is not committed, or is already reverted; no edit was
                reverted.
        """
        call = _calls.revert_edits(names, comment, author, request_id)
        reversal = await self._call(call, timeout)
        self.session.last_seq = max(self.session.last_seq, reversal.seq)
        return reversal

    async def compact(
        self,
        lane: str,
        *,
        num_experts: int = 0,
        max_loss: float | None = None,
        author: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> types.Compaction:
        """Retrains a lane from its active edits; takes as long as fitting all of them.

        Answers do not change until it is done; edits that are submitted meanwhile wait. After a
        timeout, the same request id returns the outcome.

        Args:
            lane: `lanes/{lane}`.
            num_experts: number of experts over which the edits are distributed, if the method has
                experts; the method's own number if 0.
            max_loss: largest allowed fall of mean reliability and of mean locality; 0.02 if None.
            author: who requests it.
            request_id: a UUID; a new one if None.
            timeout: seconds.

        Raises:
            PreconditionError: the lane's method has no compaction, or no edit is active.
            EditRejectedError: the result is worse than allowed, or the fit failed; nothing changed.
            UnavailableError: it takes longer than the deadline, and continues.
        """
        call = _calls.compact_lane(lane, num_experts, max_loss, author, request_id)
        made = await self._call(call, timeout)
        self.session.last_seq = max(self.session.last_seq, made.seq)
        return made

    async def lanes(self, *, timeout: float | None = None) -> list[types.Lane]:
        """The lanes that accept edits."""
        return [lane async for lane in self._pages(_calls.list_lanes, timeout)]

    async def generate(
        self,
        prompt: types.Prompt,
        *,
        min_seq: int | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: types.Sampling | None = None,
        num_alternatives: int | None = None,
        namespaces: str | Sequence[str] = (),
        canary_key: str = "",
        timeout: float | None = None,
    ) -> types.Answer:
        """Continues a prompt.

        Args:
            prompt: the text to continue, or the conversation to answer.
            min_seq: never answer from an older position; by default the latest one whose effect
                this client has seen.
            max_tokens: length limit.
            stop: the continuation ends before the first of these.
            sampling: how tokens are chosen; greedily if None.
            num_alternatives: return each token's log-probability and this many alternatives.
            namespaces: whose edits may claim it; those of the credential, or the default one, if
                none are named. `default` is the default one, `*` all of them.
            canary_key: decides which open canaries the request is in, such as a user's id; one key
                is always in the same ones. The gateway draws one if it is empty.
            timeout: seconds; the call waits this long for a replica that is behind.

        Raises:
            ReplicaBehindError: no replica reached `min_seq` in time.
            OutOfRangeError: `min_seq` is beyond the log's head.
        """
        call = _calls.generate(
            prompt,
            min_seq=self.session.min_seq(min_seq),
            max_tokens=max_tokens,
            stop=stop,
            sampling=sampling,
            num_alternatives=num_alternatives,
            namespaces=namespaces,
            canary_key=canary_key,
        )
        return await self._call(call, timeout)

    def stream(
        self,
        prompt: types.Prompt,
        *,
        min_seq: int | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: types.Sampling | None = None,
        num_alternatives: int | None = None,
        namespaces: str | Sequence[str] = (),
        canary_key: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[types.Chunk]:
        """Continues a prompt as `generate` does, and yields the text while it is generated."""
        call = _calls.stream_generate(
            prompt,
            min_seq=self.session.min_seq(min_seq),
            max_tokens=max_tokens,
            stop=stop,
            sampling=sampling,
            num_alternatives=num_alternatives,
            namespaces=namespaces,
            canary_key=canary_key,
        )
        return self._stream(call, timeout or self._timeout)

    async def generate_everywhere(
        self,
        prompt: types.Prompt,
        *,
        min_seq: int | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: types.Sampling | None = None,
        num_alternatives: int | None = None,
        namespaces: str | Sequence[str] = (),
        canary_key: str = "",
        timeout: float | None = None,
    ) -> list[types.ReplicaAnswer]:
        """The answers of every live replica to one prompt, to check that they agree."""
        call = _calls.generate_everywhere(
            prompt,
            min_seq=self.session.min_seq(min_seq),
            max_tokens=max_tokens,
            stop=stop,
            sampling=sampling,
            num_alternatives=num_alternatives,
            namespaces=namespaces,
            canary_key=canary_key,
        )
        return await self._call(call, timeout)

    async def score(
        self,
        prompt: types.Prompt,
        continuation: str,
        *,
        min_seq: int | None = None,
        separator: str | None = None,
        namespaces: str | Sequence[str] = (),
        canary_key: str = "",
        timeout: float | None = None,
    ) -> types.Score:
        """Probability of `continuation` after `prompt` under the model.

        `separator` is the text between them, as in an `EditSpec`; `namespaces` and
        `canary_key` are as in `generate`.
        """
        call = _calls.score(
            prompt, continuation, self.session.min_seq(min_seq), separator, namespaces, canary_key
        )
        return await self._call(call, timeout)

    async def model(self, *, timeout: float | None = None) -> types.Model:
        """The model that is served, and the limits of requests."""
        return await self._call(_calls.get_model(), timeout)

    def _attempt(self, call: _calls.Call[Any], timeout: float | None) -> _failures.Attempt:
        return _failures.Attempt(self._target, call.method, timeout or self._timeout)

    def _rpc(self, call: _calls.Call[Any]) -> Callable[..., Any]:
        rpc: Callable[..., Any] = getattr(self._stubs[call.service], call.method)
        return rpc

    async def _call(self, call: _calls.Call[T], timeout: float | None) -> T:
        attempt = self._attempt(call, timeout)
        try:
            response = await self._rpc(call)(
                call.request, timeout=attempt.timeout, metadata=outgoing_trace()
            )
        except grpc.RpcError as error:
            raise await asyncio.to_thread(_failures.explain, error, attempt) from error
        return call.parse(response)

    async def _stream(self, call: _calls.Call[T], timeout: float | None) -> AsyncIterator[T]:
        """The messages of a stream; without a timeout, for as long as they are read."""
        attempt = self._attempt(call, timeout)
        messages = self._rpc(call)(call.request, timeout=timeout, metadata=outgoing_trace())
        try:
            async for message in messages:
                yield call.parse(message)
        except grpc.RpcError as error:
            raise await asyncio.to_thread(_failures.explain, error, attempt) from error
        finally:
            messages.cancel()

    async def _pages(
        self, page: Callable[[str], _calls.Call[_calls.Page[T]]], timeout: float | None
    ) -> AsyncIterator[T]:
        token = ""
        while True:
            found = await self._call(page(token), timeout)
            for item in found.items:
                yield item
            token = found.next_page_token
            if not token:
                return
