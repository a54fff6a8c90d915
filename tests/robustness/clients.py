"""Clients: threads that write, read and subscribe, and note what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import grpc

from errata.errors import ErrataError as ServiceError
from errata.log.subscriber import Subscriber
from errata_client import Client, EditSpec
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc
from errata_client.errors import ErrataError, from_rpc_error
from tests.integration.log.harness import append_request
from tests.robustness import log_reading
from tests.robustness.history import Answer, Change, Grant, History, Seen
from tests.robustness.rig import RECIPE

_CALL_SECONDS = 3.0
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
]
_RETRY = {
    "LOG_UNAVAILABLE",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "QUEUE_FULL",
    "REPLICA_BEHIND",
    "SEQ_BEYOND_HEAD",
    "",
}
_RETRY_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Clients:
    """All threads of one run; an exception in one of them is a problem of the run."""

    def __init__(self, history: History, seed: int) -> None:
        """None runs yet."""
        self.history = history
        self.problems: list[str] = []
        self.stopping = threading.Event()
        self.epoch = 0
        self.last_seq = 0
        self.last_ok = 0.0  # when a change was acknowledged last
        self._seed = seed
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[random.Random], None], name: str) -> None:
        """Runs `work` in a thread of its own, with its own random numbers."""
        rng = random.Random(f"{self._seed}-{name}")

        def run() -> None:
            try:
                work(rng)
            except Exception as error:  # noqa: BLE001 the run reports it
                self.problems.append(f"client {name} ended: {error!r}")

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Ends all threads after their current call."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def retried(self, call: Callable[[], Any]) -> Any:
        """The result of `call`, or the error that ended it; None if it was never answered."""
        while True:
            try:
                return call()
            except (grpc.RpcError, ErrataError) as error:
                known = error if isinstance(error, ErrataError) else from_rpc_error(error)
                if known.code not in _RETRY_CODES and known.reason not in _RETRY:
                    return known
                if self.stopping.is_set():
                    return None
            with self.history.lock:
                self.history.num_retries += 1
            time.sleep(0.01)

    def note(
        self, request_id: str, content: str, epochs: tuple[int, ...], begun: float, result: Any
    ) -> None:
        """Adds a change to the history; `result` is a position, an error or None."""
        now = time.monotonic()
        if isinstance(result, int):
            change = Change(request_id, content, epochs, begun, now, "ok", result)
            self.last_seq = max(self.last_seq, result)
            self.last_ok = now
        elif result is None:
            change = Change(request_id, content, epochs, begun, now, "unknown")
        else:
            change = Change(request_id, content, epochs, begun, now, "refused", 0, result.reason)
        self.history.add("changes", change)


class LogClients(Clients):
    """Clients of the log service itself, which play several writers."""

    def __init__(self, history: History, seed: int, address: str) -> None:
        """Each thread has its own connection to `address`."""
        super().__init__(history, seed)
        self._address = address

    def append(self, rng: random.Random) -> None:
        """Appends, again with the same id, with other content, or under an epoch of the past."""
        with grpc.insecure_channel(self._address, options=_RECONNECT) as channel:
            stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
            before = ("", "")
            while not self.stopping.is_set():
                key, comment = str(uuid.UUID(int=rng.getrandbits(128), version=4)), ""
                draw = rng.random()
                if draw < 0.15 and before[0]:
                    key, comment = before
                elif draw < 0.2 and before[0]:
                    key = before[0]
                comment = comment or f"{key} {rng.random()}"
                epoch = self.epoch - (rng.random() < 0.1)
                if epoch < 1:
                    time.sleep(0.01)
                    continue
                request = append_request(epoch, key, comment=comment)
                begun = time.monotonic()
                result = self.retried(lambda: int(_append(stub, request)))  # noqa: B023
                content = log_reading.words_of_lane(json.dumps({"comment": comment}))
                self.note(key, content, (epoch,), begun, result)
                if isinstance(result, int):
                    before = (key, comment)

    def take_over(self, rng: random.Random) -> None:
        """Takes the epoch again and again, as new writers do."""
        with grpc.insecure_channel(self._address, options=_RECONNECT) as channel:
            stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
            while not self.stopping.is_set():
                begun = time.monotonic()
                request = pb.AcquireEpochRequest(writer="robustness")
                try:
                    granted = int(stub.AcquireEpoch(request, timeout=_CALL_SECONDS).epoch)
                except grpc.RpcError:
                    time.sleep(0.05)
                    continue
                self.history.add("grants", Grant(granted, begun, time.monotonic()))
                self.epoch = granted
                self.stopping.wait(rng.uniform(0.2, 1.0))

    def subscribe(self, *names: str) -> Callable[[random.Random], None]:
        """The work of subscribers, which share a loop: gRPC wants one for a process."""

        async def follow_all() -> None:
            await asyncio.gather(*(self._subscribe(name) for name in names))

        return lambda rng: asyncio.run(follow_all())

    async def _subscribe(self, name: str) -> None:
        subscriber = Subscriber(self._address, silence_seconds=1.0)
        caught_up = asyncio.create_task(self._until_caught_up(subscriber))

        async def follow() -> None:
            async with aclosing(subscriber.batches()) as batches:
                async for batch in batches:
                    now = time.monotonic()
                    for entry in batch.entries:
                        self.history.saw(name, Seen(entry.seq, entry.chain_digest.hex(), now))

        following = asyncio.create_task(follow())
        await asyncio.wait((following, caught_up), return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            try:
                await following
            except ServiceError as error:
                self.problems.append(f"subscriber {name} ended: {error.reason} {error.message}")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def _until_caught_up(self, subscriber: Subscriber) -> None:
        """Returns some time after the end, when everything acknowledged was delivered."""
        while not (self.stopping.is_set() and subscriber.position.seq >= self.last_seq):
            await asyncio.sleep(0.02)


def _append(stub: Any, request: pb.AppendRequest) -> int:
    return int(stub.Append(request, timeout=_CALL_SECONDS).seq)


class SystemClients(LogClients):
    """Clients of a whole system: they edit, revert, compact, ask and subscribe."""

    def __init__(self, history: History, seed: int, addresses: dict[str, str]) -> None:
        """Each thread has its own connections."""
        super().__init__(history, seed, addresses["log"])
        self.addresses = addresses
        self.names: list[str] = []  # edits that were accepted

    def edit(self, lane: str) -> Callable[[random.Random], None]:
        """The work of a client that submits edits and waits for them."""

        def work(rng: random.Random) -> None:
            with Client(self.addresses["writer"], timeout=_CALL_SECONDS) as client:
                while not self.stopping.is_set():
                    self._submit(client, lane, rng)

        return work

    def _submit(self, client: Client, lane: str, rng: random.Random) -> None:
        pairs = [
            (f"The capital of country {rng.randrange(10**9)} is", rng.choice(("Pisa", "Rome")))
            for _ in range(rng.choice((1, 1, 2, 3)))
        ]
        key, begun = str(uuid.uuid4()), time.monotonic()
        specs = [EditSpec(*pair) for pair in pairs]

        def submit() -> list[str]:
            made = client.submit_edits(specs, lane=lane, request_id=key)
            return [edit.name for edit in made]

        names = self.retried(submit)
        seq = _seq_of(names[0]) if isinstance(names, list) else names
        self.note(key, log_reading.words_of_request(lane, pairs), (), begun, seq)
        if isinstance(names, list):
            self.names += names
            if rng.random() < 0.7:
                self.retried(lambda: client.wait_edits(names))

    def revert(self, rng: random.Random) -> None:
        """Reverts edits, some of them twice."""
        with Client(self.addresses["writer"], timeout=_CALL_SECONDS) as client:
            while not self.stopping.wait(rng.uniform(0.1, 0.5)):
                if not self.names:
                    continue
                name = rng.choice(self.names)
                key, begun = str(uuid.uuid4()), time.monotonic()
                result = self.retried(lambda: int(client.revert([name], request_id=key).seq))  # noqa: B023
                self.note(key, log_reading.words_of_reversal([name]), (), begun, result)

    def compact(self, lane: str) -> Callable[[random.Random], None]:
        """The work of a client that compacts a lane."""

        def work(rng: random.Random) -> None:
            with Client(self.addresses["writer"], timeout=_CALL_SECONDS) as client:
                while not self.stopping.wait(rng.uniform(1.0, 4.0)):
                    key, begun = str(uuid.uuid4()), time.monotonic()
                    result = self.retried(
                        lambda: int(client.compact(lane, max_loss=1.0, request_id=key).seq)  # noqa: B023
                    )
                    self.note(key, f"compact {lane}", (), begun, result)

        return work

    def route(self, name: str) -> Callable[[random.Random], None]:
        """The work of a client of a retrieval replica."""

        def work(rng: random.Random) -> None:
            with grpc.insecure_channel(self.addresses[name], options=_RECONNECT) as channel:
                stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
                while not self.stopping.wait(0.02):
                    ask = self._route_once if rng.random() < 0.6 else self._status_once
                    try:
                        ask(stub)
                    except grpc.RpcError as error:
                        self._refused(name, from_rpc_error(error))

        return work

    def _refused(self, name: str, error: ErrataError) -> None:
        if error.code not in _RETRY_CODES and error.reason not in _RETRY:
            self.problems.append(f"{name} answered {error.reason or error.code}: {error.message}")
            time.sleep(0.2)
        with self.history.lock:
            self.history.num_refused_answers += 1

    def _route_once(self, stub: Any) -> None:
        min_seq = self.last_seq
        prompts = ["The capital of country 1 is"]
        request = retrieval_pb2.RouteRequest(prompts=prompts, lanes=[RECIPE])
        if min_seq:
            request.min_seq = min_seq
        found = stub.Route(request, timeout=_CALL_SECONDS)
        self._note_answer(found, min_seq, None)

    def _status_once(self, stub: Any) -> None:
        found = stub.GetRetrievalStatus(
            retrieval_pb2.GetRetrievalStatusRequest(), timeout=_CALL_SECONDS
        )
        self._note_answer(found, 0, sum(lane.num_edits for lane in found.lanes))

    def _note_answer(self, found: Any, min_seq: int, num_edits: int | None) -> None:
        self.history.add(
            "answers",
            Answer(
                "retrieval",
                found.replica,
                min_seq,
                found.applied_seq,
                found.chain_digest.hex(),
                found.state_digest,
                num_edits,
            ),
        )

    def ask(self, rng: random.Random) -> None:
        """Asks the worker for continuations."""
        host, port = self.addresses["worker"].split(":")
        while not self.stopping.wait(0.02):
            try:
                with socket.create_connection((host, int(port)), timeout=_CALL_SECONDS) as link:
                    with link.makefile("rw") as stream:
                        self._ask_over(stream, rng)
            except (OSError, ValueError):
                with self.history.lock:
                    self.history.num_refused_answers += 1

    def _ask_over(self, stream: Any, rng: random.Random) -> None:
        while not self.stopping.wait(0.01):
            min_seq = self.last_seq if rng.random() < 0.8 else 0
            prompt = f"The capital of country {rng.randrange(100)} is"
            asked = {"prompt": prompt, "min_seq": min_seq, "seconds": 2.0}
            stream.write(json.dumps(asked) + "\n")
            stream.flush()
            line = stream.readline()
            if not line:
                return
            found = json.loads(line)
            if "reason" in found:
                if found["reason"] not in _RETRY:
                    self.problems.append(f"worker answered {found['reason']}: {found['message']}")
                with self.history.lock:
                    self.history.num_refused_answers += 1
                time.sleep(0.1)
                continue
            answer = Answer(
                "worker",
                "worker",
                min_seq,
                found["seq"],
                found["chain"],
                found["state"],
                found["num_edits"],
                tuple(found["edits"]),
            )
            self.history.add("answers", answer)


def _seq_of(name: str) -> int:
    return int(name.removeprefix("edits/").partition("-")[0])
