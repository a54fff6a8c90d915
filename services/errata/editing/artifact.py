"""Named tensors as bytes: safetensors, written deterministically and checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from errata.editing.safetensors_header import MAX_HEADER_BYTES, check_header
from errata.errors import ArtifactCorruptError

_DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The required shape and dtype of one tensor; None in `shape` allows any size."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Artifact:
    """Tensors and string metadata.

    Attributes:
        tensors: by name; on any device, with dtypes of `_DTYPE_NAMES`.
        metadata: strings by name.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The artifact as a safetensors file.

        Deterministic: equal content gives equal bytes. The safetensors library orders metadata by
        a random hash; therefore, the header is written here.
        """
        header: dict[str, object] = {"__metadata__": dict(sorted(self.metadata.items()))}
        blobs: list[bytes] = []
        end = 0
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            if tensor.dtype not in _DTYPE_NAMES:
                raise ArtifactCorruptError(
                    f"tensor {name} has dtype {tensor.dtype}, which artifacts do not support.",
                    tensor=name,
                )
            blob = bytes(tensor_bytes(tensor))
            header[name] = {
                "dtype": _DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [end, end + len(blob)],
            }
            blobs.append(blob)
            end += len(blob)
        text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
        text += b" " * (-len(text) % 8)  # the format requires 8-byte alignment of the data
        return len(text).to_bytes(8, "little") + text + b"".join(blobs)

    @classmethod
    def from_bytes(cls, data: bytes, *, max_header_bytes: int = MAX_HEADER_BYTES) -> Artifact:
        """Reads the result of `to_bytes`; tensors are on the CPU.

        Args:
            data: from any source; the header is checked before anything is allocated for it.
            max_header_bytes: limit for the header, which holds the metadata.

        Raises:
            ArtifactCorruptError: not safetensors, an unsupported dtype, or a value that is not
                finite.
        """
        metadata = check_header(data, max_header_bytes)
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactCorruptError(
                f"{len(data)} bytes are not a safetensors file ({error}). Fetch the artifact again."
            ) from error
        for name, tensor in tensors.items():
            if not _is_finite(tensor):
                raise ArtifactCorruptError(
                    f"tensor {name} contains NaN or infinity; the fit that produced it failed.",
                    tensor=name,
                )
        return cls(tensors=tensors, metadata=metadata)

    def check(self, allowed: Mapping[str, TensorSpec]) -> None:
        """Checks names, shapes, dtypes and finiteness against a specification.

        Raises:
            ArtifactCorruptError: a tensor is missing, unknown, or differs from its specification.
        """
        if self.tensors.keys() != allowed.keys():
            missing = sorted(allowed.keys() - self.tensors.keys())
            surplus = sorted(self.tensors.keys() - allowed.keys())
            raise ArtifactCorruptError(
                f"the artifact lacks {missing} and has unknown {surplus}; it belongs to another "
                "method or configuration."
            )
        for name, spec in allowed.items():
            tensor = self.tensors[name]
            fits = len(spec.shape) == tensor.ndim and all(
                want is None or want == have
                for want, have in zip(spec.shape, tensor.shape, strict=True)
            )
            if not fits or tensor.dtype != spec.dtype:
                raise ArtifactCorruptError(
                    f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}; expected "
                    f"{spec.dtype} {spec.shape}.",
                    tensor=name,
                )
            if not _is_finite(tensor):
                raise ArtifactCorruptError(f"tensor {name} contains NaN or infinity.", tensor=name)


def _is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; both show in the extremes, which need no copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax())


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw little-endian bytes of a tensor of any dtype and device, in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data)
