"""Artifacts: deterministic bytes, and checks of everything that is read."""

from __future__ import annotations

import pytest
import safetensors
import safetensors.torch
import torch

from errata.editing.artifact import Artifact, TensorSpec
from errata.errors import ArtifactCorruptError


def _example() -> Artifact:
    tensors = {
        "b": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "a": torch.tensor([1, 2], dtype=torch.int64),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }
    return Artifact(tensors, {str(i): f"value {i}" for i in range(20)})


def test_bytes_round_trip_and_are_readable_by_the_library() -> None:
    example = _example()
    data = example.to_bytes()
    again = Artifact.from_bytes(data)
    assert again.metadata == example.metadata
    assert again.tensors.keys() == example.tensors.keys()
    for name, tensor in safetensors.torch.load(data).items():
        assert tensor.dtype == example.tensors[name].dtype
        assert torch.equal(tensor, example.tensors[name])
        assert torch.equal(tensor, again.tensors[name])


def test_bytes_do_not_depend_on_insertion_order() -> None:
    example = _example()
    shuffled = Artifact(
        dict(reversed(example.tensors.items())), dict(reversed(example.metadata.items()))
    )
    assert shuffled.to_bytes() == example.to_bytes()
    shuffled.tensors["a"] = shuffled.tensors["a"] + 1
    assert shuffled.to_bytes() != example.to_bytes()


@pytest.mark.parametrize("damage", [b"", b"garbage that is long enough", None])
def test_other_bytes_are_refused(damage: bytes | None) -> None:
    data = _example().to_bytes()[:-3] if damage is None else damage
    with pytest.raises(ArtifactCorruptError, match="not a safetensors file"):
        Artifact.from_bytes(data)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    bad = Artifact({"x": torch.tensor([0.0, value])})
    with pytest.raises(ArtifactCorruptError, match="NaN or infinity"):
        Artifact.from_bytes(bad.to_bytes())
    with pytest.raises(ArtifactCorruptError, match="NaN or infinity"):
        bad.check({"x": TensorSpec((2,), torch.float32)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_extremes_of_every_dtype_are_finite(dtype: torch.dtype) -> None:
    """The sum of these is not, and an empty tensor has no extremes."""
    limits = torch.finfo(dtype)
    largest = Artifact({"x": torch.tensor([limits.max, limits.max, limits.min], dtype=dtype)})
    assert Artifact.from_bytes(largest.to_bytes()).tensors["x"].dtype == dtype
    Artifact({"x": torch.zeros(0, 3, dtype=dtype)}).check({"x": TensorSpec((0, 3), dtype)})


def test_dtypes_outside_the_list_are_refused() -> None:
    odd = {"x": torch.ones(2, dtype=torch.int16)}
    with pytest.raises(ArtifactCorruptError, match="int16"):
        Artifact(odd).to_bytes()
    with pytest.raises(ArtifactCorruptError, match="I16"):
        Artifact.from_bytes(safetensors.torch.save(odd))


def test_check_accepts_exactly_the_allowed_tensors() -> None:
    artifact = Artifact({"x": torch.ones(2, 3)})
    artifact.check({"x": TensorSpec((2, None), torch.float32)})
    for allowed, message in [
        ({}, "unknown"),
        ({"x": TensorSpec((2, 3), torch.float32), "y": TensorSpec((1,), torch.float32)}, "lacks"),
        ({"x": TensorSpec((3, 2), torch.float32)}, "expected"),
        ({"x": TensorSpec((2,), torch.float32)}, "expected"),
        ({"x": TensorSpec((2, 3), torch.float64)}, "expected"),
    ]:
        with pytest.raises(ArtifactCorruptError, match=message):
            artifact.check(allowed)
