"""Properties of a tokenizer's decoder that streaming text depends on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# The text of these decoders can be joined from the parts that `GrowingText` decodes.
_LOCAL_DECODERS = frozenset(
    {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"}
)


class Decoding:
    """What decides how early the text of a token sequence can be released.

    Attributes:
        is_local: whether text can be released before the last token.
        strips_first: whether the first blank of a text is dropped.
        byte_ids: tokens of one byte each. A run of them is text only if all of it is valid UTF-8;
            otherwise each of its bytes becomes a replacement character.
        skipped_ids: control tokens, which have no text and do not end a run of bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        decoder = self._backend.decoder
        steps = list(_steps(json.loads(decoder.__getstate__()))) if decoder else []
        kinds = {step["type"] for step in steps}
        strips = [step for step in steps if step["type"] == "Strip"]
        # A decoder can drop a blank at the start of a text, but nothing that depends on its end.
        self.is_local = (
            bool(kinds)
            and kinds <= _LOCAL_DECODERS
            and all(strip["start"] <= 1 and not strip["stop"] for strip in strips)
        )
        self.strips_first = any(strip["start"] for strip in strips) or any(
            step["type"] == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps
        )
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if "ByteFallback" in kinds else []
        found = [self._backend.token_to_id(token) for token in bytes_]
        self.byte_ids = frozenset(number for number in found if number is not None)
        added = self._backend.get_added_tokens_decoder()
        self.skipped_ids = frozenset(number for number, token in added.items() if token.special)

    def part(self, ids: Sequence[int]) -> str:
        """The text of some tokens, decoded without the others."""
        return str(self._backend.decode(ids, skip_special_tokens=True))


def _steps(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A decoder and the decoders inside it."""
    yield state
    for inner in state.get("decoders", ()):
        yield from _steps(inner)
