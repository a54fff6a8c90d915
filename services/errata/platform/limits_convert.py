"""Compares requests with the limits of `limits`, whatever their type."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from errata.errors import InvalidRequestError, LimitExceededError
from errata.platform.limits import BYTES, CHARS, ITEMS, LEAST_FLOAT, TOTAL_CHARS

_PACKAGE = "errata.v1."
_FLOATS = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
_LEAST_SINGLE = 2.0**-126


def check_request(message: Message) -> None:
    """Returns if a request keeps all limits; what comes after can rely on them.

    It takes time in proportion to what is within the limits: a list that is too long is not read.

    Raises:
        InvalidRequestError: a text is too long, or a number is no usable number.
        LimitExceededError: a list has too many items.
    """
    kind = _key(message.DESCRIPTOR.full_name)
    total = _check(message, "")
    most = TOTAL_CHARS.get(kind)
    if most is not None and total > most:
        raise _too_long(f"the request's texts together have {total:,}", total, most, None)


def _key(full_name: str) -> str:
    return full_name.removeprefix(_PACKAGE)


def _check(message: Message, path: str) -> int:
    """The number of characters in a message whose fields keep their limits."""
    total = 0
    for field, value in message.ListFields():
        key, name = _key(field.full_name), f"{path}{field.name}"
        if not field.is_repeated:
            total += _check_value(field, key, value, name)
            continue
        most = ITEMS.get(key)
        if most is not None and len(value) > most:
            raise LimitExceededError(
                f"{name} has {len(value):,} items; the limit is {most:,}. Split the request.",
                field=name,
                num_items=len(value),
                limit=most,
            )
        if _is_map(field):
            total += _check_map(field, value, name)
        else:
            for index, item in enumerate(value):
                total += _check_value(field, key, item, f"{name}[{index}]")
    return total


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _check_map(field: FieldDescriptor, value: Any, name: str) -> int:
    columns = field.message_type.fields_by_name  # type: ignore[union-attr] # maps have a type
    key, entry = columns["key"], columns["value"]
    total = 0
    for index, (inner, content) in enumerate(value.items()):
        total += _check_value(key, _key(key.full_name), inner, f"{name}[{index}].key")
        total += _check_value(entry, _key(entry.full_name), content, f"{name}[{index}].value")
    return total


def _check_value(field: FieldDescriptor, key: str, value: Any, name: str) -> int:
    """The number of characters in one value."""
    if isinstance(value, Message):
        return _check(value, f"{name}.")
    if isinstance(value, str):
        _check_text(key, value, name)
        return len(value)
    if isinstance(value, bytes):
        most = BYTES.get(key)
        if most is not None and len(value) > most:
            raise InvalidRequestError(
                f"{name} has {len(value):,} bytes; the limit is {most:,}.", field=name, limit=most
            )
    elif field.type in _FLOATS:
        least = _LEAST_SINGLE if field.type == FieldDescriptor.TYPE_FLOAT else LEAST_FLOAT
        if not math.isfinite(value) or 0 < abs(value) < least:
            raise InvalidRequestError(
                f"{name} is {value:g}; give a finite number that is 0 or not nearly 0.", field=name
            )
    return 0


def _check_text(key: str, text: str, name: str) -> None:
    most = CHARS.get(key)
    if most is not None and len(text) > most:
        raise _too_long(f"{name} has {len(text):,}", len(text), most, name)


def _too_long(what: str, size: int, most: int, field: str | None) -> InvalidRequestError:
    return InvalidRequestError(
        f"{what} characters; the limit is {most:,}. Shorten it.",
        field=field,
        num_chars=size,
        limit=most,
    )
