"""Headers of safetensors files that lie are refused, and cost no memory."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from errata.editing.artifact import Artifact
from errata.editing.safetensors_header import MAX_HEADER_BYTES, check_header
from errata.errors import ArtifactCorruptError


def _file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tensor(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


EIGHT = bytes(8)
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "longer than the file"),
    "short": (b"\x01", "longer than the file"),
    "length beyond the file": ((2**40).to_bytes(8, "little") + b"{}", "longer than the file"),
    "greatest length": (b"\xff" * 8 + b"{}", "longer than the file"),
    "not UTF-8": (_file(b"\xff\xfe"), "not JSON"),
    "not JSON": (_file(b"{"), "not JSON"),
    "deep": (_file(b"[" * 100_000), "not JSON"),
    "long number": (_file(b'{"a":' + b"1" * 5_000 + b"}"), "not JSON"),
    "a list": (_file([]), "not a JSON object"),
    "twice": (_file(b'{"a":1,"a":2}'), "name twice"),
    "metadata": (_file({"__metadata__": {"a": 1}}), "not strings"),
    "metadata is a list": (_file({"__metadata__": []}), "not strings"),
    "no tensor": (_file({"a": 1}), "lacks dtype"),
    "more keys": (_file({"a": {**_tensor([1], 0, 4), "x": 1}}, bytes(4)), "or has more"),
    "empty name": (_file({"": _tensor([1], 0, 4)}, bytes(4)), "cannot name"),
    "long name": (_file({"a" * 513: _tensor([1], 0, 4)}, bytes(4)), "cannot name"),
    "control characters": (_file({"a\x1b[2J": _tensor([1], 0, 4)}, bytes(4)), "cannot name"),
    "dtype": (_file({"a": _tensor([2], 0, 8, "I16")}, EIGHT), "I16"),
    "dtype is a list": (_file({"a": _tensor([2], 0, 8, ["F32"])}, EIGHT), "not supported"),
    "shape is a number": (_file({"a": _tensor(2, 0, 8)}, EIGHT), "no valid shape"),
    "negative size": (_file({"a": _tensor([-2], 0, 8)}, EIGHT), "no valid shape"),
    "size is true": (_file({"a": _tensor([True], 0, 4)}, bytes(4)), "no valid shape"),
    "size is a float": (_file({"a": _tensor([2.0], 0, 8)}, EIGHT), "no valid shape"),
    "huge size": (_file({"a": _tensor([2**63], 0, 8)}, EIGHT), "no valid shape"),
    "many dimensions": (_file({"a": _tensor([1] * 9, 0, 4)}, bytes(4)), "no valid shape"),
    "huge product": (_file({"a": _tensor([2**40, 2**40], 0, 8)}, EIGHT), "number of bytes"),
    "product wraps": (_file({"a": _tensor([2**62, 4, 2], 0, 0)}), "number of bytes"),
    "three offsets": (
        _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, EIGHT),
        "no valid data_offsets",
    ),
    "negative offset": (_file({"a": _tensor([2], -8, 0)}, EIGHT), "no valid data_offsets"),
    "backwards": (_file({"a": _tensor([2], 8, 0)}, EIGHT), "number of bytes"),
    "beyond the file": (_file({"a": _tensor([4], 0, 16)}, EIGHT), "follow the header"),
    "surplus": (_file({"a": _tensor([1], 0, 4)}, EIGHT), "follow the header"),
    "gap": (_file({"a": _tensor([1], 4, 8)}, EIGHT), "overlap others or leave a gap"),
    "overlap": (
        _file({"a": _tensor([2], 0, 8), "b": _tensor([1], 4, 8)}, EIGHT),
        "overlap others or leave a gap",
    ),
    "same bytes": (
        _file({"a": _tensor([2], 0, 8), "b": _tensor([2], 0, 8)}, EIGHT),
        "overlap others or leave a gap",
    ),
    "too many": (
        _file({f"{i}": _tensor([0], 0, 0) for i in range(100_001)}),
        "the limit is 100,000",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_crafted_header_is_refused(case: str) -> None:
    data, message = BAD[case]
    with pytest.raises(ArtifactCorruptError, match=message):
        Artifact.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        BAD["length beyond the file"][0],
        BAD["greatest length"][0],
        BAD["huge product"][0],
        _file({"a": _tensor([2**40], 0, 2**42)}),
        _file({"a": _tensor([2**20, 2**20], 0, 2**42)}, EIGHT),
    ],
)
def test_what_a_header_promises_is_not_allocated(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactCorruptError):
            Artifact.from_bytes(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_header_above_the_limit_is_refused_before_it_is_parsed() -> None:
    text = b"{" + b" " * MAX_HEADER_BYTES + b"}"
    data = _file(text)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactCorruptError, match="the limit is 16,777,216"):
            check_header(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert check_header(data, 2 * MAX_HEADER_BYTES) == {}


def test_what_artifacts_contain_passes() -> None:
    tensors = {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(1.0),
        "many": torch.ones(2, 3, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
    }
    data = Artifact(tensors, {"facts": '["{[Ω"]'}).to_bytes()
    assert check_header(data) == {"facts": '["{[Ω"]'}
    assert Artifact.from_bytes(data).tensors.keys() == tensors.keys()


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_damaged_bytes_raise_nothing_untyped(rest: bytes, at: int, value: int) -> None:
    good = bytearray(Artifact({"a": torch.ones(2, 2), "b": torch.zeros(3)}, {"k": "v"}).to_bytes())
    good[at % len(good)] = value
    for data in (bytes(good), rest, len(rest).to_bytes(8, "little") + rest):
        with suppress(ArtifactCorruptError):
            Artifact.from_bytes(data)
