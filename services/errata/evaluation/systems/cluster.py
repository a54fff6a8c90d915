"""A running cluster, edited and asked through its gateway with the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any, TypeVar

from errata.editing.chat import Prompt
from errata.engine.sampling import Sampling
from errata.errors import InvalidRequestError, PreconditionError
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome, Pair, Scored, requests_of
from errata.platform.limits import MAX_NAMED_EDITS
from errata.platform.settings import WriterSettings
from errata_client import AsyncClient, ChatMessage, Edit, EditSpec, EditState
from errata_client import Chat as ChatSpec
from errata_client import Sampling as SamplingSpec

T = TypeVar("T")
_CONCURRENCY = 64  # requests in flight
_ASK_SECONDS = 120.0
_SETTLE_SECONDS = 3600.0


class ClusterSystem:
    """A lane of a running cluster; answers are never older than the last commit.

    Edits by others stay active and are part of what is measured.
    """

    def __init__(self, target: str, method: str, lane: str, config_json: str | None) -> None:
        """Connects.

        Args:
            target: `host:port` of the gateway.
            method: required of the lane.
            lane: `lanes/{lane}`; the cluster's default lane if empty.
            config_json: required of the lane, unless None.

        Raises:
            PreconditionError: the lane has another method or configuration.
            InvalidRequestError: no such lane.
        """
        self._runner = asyncio.Runner()
        self._client = self._run(_connected(target))
        lanes = self._run(self._client.lanes())
        found = [item for item in lanes if (item.name == lane if lane else item.is_default)]
        if not found:
            raise InvalidRequestError(
                f"{target} has no lane {lane!r}; it has {', '.join(x.name for x in lanes)}.",
                field="lane",
            )
        self._lane = found[0]
        if self._lane.method != method:
            raise PreconditionError(
                f"{self._lane.name} of {target} edits with {self._lane.method}, not {method}; "
                "choose another lane or method."
            )
        if config_json is not None and config_json != self._lane.config_json:
            raise PreconditionError(
                f"{self._lane.name} of {target} does not have the configuration of --lane-config: "
                f"{self._lane.config_json}"
            )
        self.config_json = self._lane.config_json
        self.model_digest = self._lane.base_model_digest
        self._accepted: list[str] = []
        self._committed: dict[str, Edit] = {}

    @property
    def has_chat_template(self) -> bool:
        """Whether the cluster's model takes conversations."""
        return self._run(self._client.model()).has_chat_template

    @property
    def state_bytes(self) -> int:
        """Bytes of the artifacts of all edits that this object made."""
        sizes = {edit.artifact_digest: edit.artifact_size for edit in self._committed.values()}
        return sum(sizes.values())

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Submits the edits in as few requests as the writer accepts, and waits for all of them.

        Raises:
            PreconditionError: edits were still pending after an hour.
        """
        start = perf_counter()
        rejected: list[str] = []
        for run in requests_of(records):
            specs = [EditSpec(r.prompt, r.target_new, r.subject) for r in run]
            for record, edit in zip(run, self._run(self._submit(specs)), strict=True):
                if edit.state is EditState.COMMITTED:
                    self._committed[edit.name] = edit
                else:
                    rejected.append(record.case_id)
        return EditOutcome(tuple(rejected), perf_counter() - start)

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Scores continuations, one request per pair, many requests at a time."""

        async def one(pair: Pair) -> Scored:
            prompt, continuation = pair
            scored = await self._client.score(_sent(prompt), continuation, timeout=_ASK_SECONDS)
            tokens = scored.tokens
            return Scored(
                tuple(token.token_id for token in tokens),
                tuple(token.argmax_token_id for token in tokens),
                tuple(token.log_probability for token in tokens),
            )

        return self._run(_gathered(one, pairs))

    def generate(
        self, prompts: Sequence[Prompt], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        """Continues each prompt, many at a time."""

        async def one(item: tuple[Prompt, Sampling]) -> str:
            prompt, how = item
            answer = await self._client.generate(
                _sent(prompt),
                max_tokens=max_tokens,
                sampling=SamplingSpec(how.temperature, how.top_p, how.top_k, how.seed),
                timeout=_ASK_SECONDS,
            )
            return answer.text

        return self._run(_gathered(one, list(zip(prompts, sampling, strict=True))))

    def reset(self) -> None:
        """Reverts the edits that this object made, including those of an interrupted request."""
        left = [name for name in self._accepted if name not in self._committed]
        for names in _requests(left):
            for edit in self._run(self._wait(names)):
                if edit.state is EditState.COMMITTED:
                    self._committed[edit.name] = edit
        for names in _requests(list(self._committed)):
            self._run(self._client.revert(names, comment="end of an evaluation run"))
        self._accepted.clear()
        self._committed.clear()

    def close(self) -> None:
        """Closes the connection."""
        self._run(self._client.close())
        self._runner.close()

    async def _submit(self, specs: Sequence[EditSpec]) -> list[Edit]:
        """The settled edits, in the order of their specifications."""
        settled: list[Edit] = []
        most = WriterSettings().max_edits_per_request
        for start in range(0, len(specs), most):
            accepted = await self._client.submit_edits(
                specs[start : start + most], lane=self._lane.name, author="errata bench"
            )
            names = [edit.name for edit in accepted]
            self._accepted += names
            found = {edit.name: edit for edit in await self._wait(names)}
            settled += [found[name] for name in names]
        return settled

    async def _wait(self, names: Sequence[str]) -> list[Edit]:
        settled = await self._client.wait_edits(names, timeout=_SETTLE_SECONDS)
        waiting = (EditState.REQUESTED, EditState.FITTING)
        late = [edit.name for edit in settled if edit.state in waiting]
        if late:
            raise PreconditionError(
                f"{len(late)} edits, among them {late[0]}, are still pending after "
                f"{_SETTLE_SECONDS / 60:.0f} minutes; see the writer's log."
            )
        return settled

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)


def _requests(names: Sequence[str]) -> list[Sequence[str]]:
    """The names, by as many as one request can have."""
    return [names[i : i + MAX_NAMED_EDITS] for i in range(0, len(names), MAX_NAMED_EDITS)]


def _sent(prompt: Prompt) -> str | ChatSpec:
    """A prompt as the SDK takes it; questions about records are turns of text."""
    if isinstance(prompt, str):
        return prompt
    return ChatSpec(tuple(ChatMessage(turn.role, turn.content) for turn in prompt.messages))


async def _connected(target: str) -> AsyncClient:
    return AsyncClient(target, timeout=_ASK_SECONDS)


async def _gathered(ask: Callable[[Any], Coroutine[Any, Any, T]], items: Sequence[Any]) -> list[T]:
    """The answers to all items in order, with `_CONCURRENCY` requests in flight."""
    free = asyncio.Semaphore(_CONCURRENCY)

    async def one(item: Any) -> T:
        async with free:
            return await ask(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
