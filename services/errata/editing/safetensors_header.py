"""Checks the header of a safetensors file before anything is allocated for it.

A file begins with the header's length (8 bytes, little endian) and the header: a JSON object with a
dtype, a shape and a range of bytes for each tensor, and the metadata.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

from errata.errors import ArtifactCorruptError

MAX_HEADER_BYTES = 16 * 1024 * 1024
_LENGTH_BYTES = 8
_MAX_TENSORS = 100_000
_MAX_NAME_CHARS = 512
_MAX_DIMENSIONS = 8
_METADATA = "__metadata__"

BYTES_OF = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
}
"""The allowed dtypes by their names in the format, and the size of one element."""


def check_header(data: bytes, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, str]:
    """Checks that the header describes exactly the bytes of the file.

    Args:
        data: the whole file.
        max_header_bytes: limit for the header, whose JSON is read into memory.

    Returns:
        The metadata.

    Raises:
        ArtifactCorruptError: the header is too long, is not of the format, names a dtype that is
            not allowed, or its tensors do not fill the file without gap or overlap.
    """
    header = _parsed(data, max_header_bytes)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt("its metadata are not strings")
    if len(header) > _MAX_TENSORS:
        raise _corrupt(f"it has {len(header):,} tensors; the limit is {_MAX_TENSORS:,}")
    ranges = sorted(_range(name, tensor) for name, tensor in header.items())
    end = 0
    for begin, after, name in ranges:
        if begin != end:
            raise _corrupt(f"the bytes of tensor {name!r} overlap others or leave a gap")
        end = after
    length = len(data) - _LENGTH_BYTES - int.from_bytes(data[:_LENGTH_BYTES], "little")
    if end != length:
        raise _corrupt(f"its tensors have {end:,} bytes, but {length:,} follow the header")
    return metadata


def _parsed(data: bytes, max_header_bytes: int) -> dict[str, Any]:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or length > len(data) - _LENGTH_BYTES:
        raise _corrupt("its header is longer than the file")
    if length > max_header_bytes:
        raise _corrupt(f"its header has {length:,} bytes; the limit is {max_header_bytes:,}")
    try:
        text = data[_LENGTH_BYTES : _LENGTH_BYTES + length].decode()
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # ValueError: neither UTF-8 nor JSON
        raise _corrupt("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _corrupt("its header is not a JSON object")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; readers differ in which of two equal names counts."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _corrupt("its header has a name twice")
    return made


def _range(name: str, tensor: Any) -> tuple[int, int, str]:
    """Begin and end of a tensor's bytes after the header, and its name."""
    if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise _corrupt(f"{name[:80]!r} cannot name a tensor")
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(f"tensor {name!r} lacks dtype, shape or data_offsets, or has more")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_OF:
        raise _corrupt(f"tensor {name!r} has dtype {str(dtype)[:40]!r}, which is not supported")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _corrupt(f"tensor {name!r} has no valid shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _corrupt(f"tensor {name!r} has no valid data_offsets")
    begin, end = offsets
    if end - begin != prod(shape) * BYTES_OF[dtype]:
        raise _corrupt(f"shape and dtype of tensor {name!r} do not give its number of bytes")
    return begin, end, name


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _corrupt(why: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"the bytes are not a safetensors file that may be read: {why}. Fetch the artifact again."
    )
