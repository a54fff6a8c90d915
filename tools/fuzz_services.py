"""Sends random, mutated and meaningless requests to all four services, and says what they answer.

    python tools/fuzz_services.py --seconds 600 --out build/fuzz.json

It starts a system of its own. For each service and method it makes messages with random fields,
flips bytes of serialized ones, sends bytes that are none, and speaks no gRPC at all. It fails if
any answer is INTERNAL or UNKNOWN, if a process ends, or if a service is not healthy afterwards.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from rich.console import Console

from errata.launch.box import Box, free_addresses
from errata.launch.health import health_of
from errata.launch.progress import Steps
from errata.platform.addresses import host_and_port
from errata_client._gen.errata.v1 import (  # noqa: F401 registers the services
    catalog_pb2,
    edit_log_pb2,
    editing_pb2,
    inference_pb2,
    retrieval_pb2,
)

SERVICES = {
    "log": "errata.v1.EditLogService",
    "writer": "errata.v1.EditingService",
    "retrieval": "errata.v1.RetrievalService",
    "catalog": "errata.v1.CatalogService",
    "gateway": "errata.v1.InferenceService",
}
# It would fence the writer of the system that is tested.
_LEFT_OUT = {"AcquireEpoch"}
_BAD = {"INTERNAL", "UNKNOWN"}
_DEADLINE_SECONDS = 2.0
_TEXTS = (
    "", "a", "The capital of France is", "\x00", "\u202e\u0301" * 50, "e" + "\u0301" * 3_000,
    "x" * 40_000, "[bold]x[/nothing]", "lanes/main", "edits/1-0", "edits/99999999999999999999-1",
    "edits/-1--1", "../../etc/passwd", "<|im_end|>", "0" * 64, "\ud7ff\ue000\U0010ffff", "%s%n{0}",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, -(2**31), 2**32 - 1)
_FLOATS = (0.0, 1.0, -1.0, 1e-39, 1e39, float("nan"), float("inf"), -float("inf"), 0.5)


@dataclass
class Found:
    """What one service answered."""

    codes: Counter[str] = field(default_factory=Counter)
    bad: list[dict[str, str]] = field(default_factory=list)
    calls: int = 0


def _fill(message: Message, rng: random.Random, depth: int = 0) -> None:
    for each in message.DESCRIPTOR.fields:
        if rng.random() < 0.35 or (each.message_type and depth > 4):
            continue
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            continue
        many = each.is_repeated
        count = rng.choice((1, 1, 2, 5, 40)) if many else 1
        for _ in range(count):
            if each.message_type is not None:
                inner = getattr(message, each.name)
                _fill(inner.add() if many else inner, rng, depth + 1)
                continue
            value = _value(each, rng)
            try:
                if many:
                    getattr(message, each.name).append(value)
                else:
                    setattr(message, each.name, value)
            except (ValueError, TypeError):
                continue  # out of the field's range


def _value(each: FieldDescriptor, rng: random.Random) -> Any:
    if each.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_TEXTS)
    if each.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 32, 5_000)))
    if each.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if each.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if each.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice((0, 1, 2, 99))
    return rng.choice(_NUMBERS)


def _request(kind: type[Message], rng: random.Random) -> bytes:
    way = rng.random()
    if way < 0.1:
        return rng.randbytes(rng.choice((1, 10, 300, 70_000)))
    message = kind()
    _fill(message, rng)
    data = bytearray(message.SerializeToString())
    if way < 0.35 and data:
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _ask(channel: Any, path: str, streams: bool, data: bytes) -> tuple[str, str]:
    try:
        if streams:
            call = channel.unary_stream(path)(data, timeout=_DEADLINE_SECONDS)
            for number, _ in enumerate(call):
                if number == 2:
                    call.cancel()
        else:
            channel.unary_unary(path)(data, timeout=_DEADLINE_SECONDS)
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    return "OK", ""


def _no_grpc(address: str, rng: random.Random) -> None:
    host, port = host_and_port(address)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if rng.random() < 0.5 else b""
    with socket.create_connection((host, port), timeout=5) as link:
        link.settimeout(1)
        try:
            link.sendall(preface + rng.randbytes(rng.choice((1, 50, 5_000))))
            link.recv(100)
        except OSError:
            pass  # whatever it says to that


def _fuzz(name: str, address: str, seconds: float, seed: int, found: Found) -> None:
    rng = random.Random(f"{seed} {name}")
    service = descriptor_pool.Default().FindServiceByName(SERVICES[name])
    methods = [method for method in service.methods if method.name not in _LEFT_OUT]
    options = [("grpc.max_send_message_length", 64 * 2**20)]
    end = time.monotonic() + seconds
    with grpc.insecure_channel(address, options=options) as channel:
        while time.monotonic() < end:
            if rng.random() < 0.02:
                _no_grpc(address, rng)
                found.codes["(no gRPC)"] += 1
                continue
            method = rng.choice(methods)
            data = _request(GetMessageClass(method.input_type), rng)
            path = f"/{service.full_name}/{method.name}"
            code, details = _ask(channel, path, method.server_streaming, data)
            found.calls += 1
            found.codes[code] += 1
            if code in _BAD and len(found.bad) < 50:
                found.bad.append({"method": method.name, "details": details, "data": data.hex()})


def _resident(box: Box, name: str) -> int:
    process = psutil.Process(box.processes[name].popen.pid)
    return int(process.memory_info().rss)


def main() -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each service, at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="errata-fuzz-") as folder:
        flags: dict[str, Any] = {"data_dir": Path(folder), **free_addresses()}
        flags["worker"] = {"retrieval_address": flags["retrieval"]["address"]}
        with Box(flags, steps=Steps(console)) as box:
            report = _run(box, chosen.seconds, chosen.seed)
    text = json.dumps(report, indent=2)
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0 if all(one["sound"] for one in report.values()) else 1


def _run(box: Box, seconds: float, seed: int) -> dict[str, Any]:
    addresses = {name: getattr(box.settings, name).address for name in SERVICES}
    for name, address in addresses.items():  # what is loaded once is no growth
        _fuzz(name, address, min(10.0, seconds / 10), seed + 1, Found())
    before = {name: _resident(box, name) for name in SERVICES}
    found = {name: Found() for name in SERVICES}
    threads = [
        threading.Thread(target=_fuzz, args=(name, address, seconds, seed, found[name]))
        for name, address in addresses.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = {}
    for name, address in addresses.items():
        alive = box.processes[name].running
        health = health_of(address, 10.0)
        report[name] = {
            "calls": found[name].calls,
            "codes": dict(found[name].codes.most_common()),
            "bad": found[name].bad,
            "health": health,
            "resident_mib": [before[name] >> 20, _resident(box, name) >> 20 if alive else 0],
            "sound": alive and health == "SERVING" and not found[name].bad,
        }
    return report


if __name__ == "__main__":
    sys.exit(main())
