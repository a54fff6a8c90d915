"""What a tokenizer's decoder does, as far as text can be released before its last token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Decoders whose texts can be put together from parts that are cut as `GrowingText` cuts them.
_LOCAL_DECODERS = frozenset(
    {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"}
)


class Decoding:
    """What has to be known of a tokenizer to release text before the last token is there.

    Attributes:
        is_local: whether that can be done at all; else a text is complete only in the end.
        strips_first: whether a text's first blank is dropped.
        byte_ids: tokens of one byte each. A run of them is text only if all of it is valid UTF-8;
            else every byte of it is shown as a replacement character.
        skipped_ids: control tokens, which are no text and do not end a run of bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        decoder = self._backend.decoder
        steps = list(_steps(json.loads(decoder.__getstate__()))) if decoder else []
        kinds = {step["type"] for step in steps}
        strips = [step for step in steps if step["type"] == "Strip"]
        # A decoder may drop a blank from the start of a text, but nothing that depends on its end.
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
        """The text of some tokens by themselves."""
        return str(self._backend.decode(ids, skip_special_tokens=True))


def _steps(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A decoder and those inside it."""
    yield state
    for inner in state.get("decoders", ()):
        yield from _steps(inner)
