"""The tokenizer's ids and character offsets of whole texts, from which `prompts` builds rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.chat_template import Rendered

# In front of a text, these keep a tokenizer from treating the text's start as a word's start.
_ANCHORS = ("\n", ".", "a", "(", "的")


@dataclass(frozen=True, slots=True)
class Encoded:
    """The token ids of one text, and the range of characters of each."""

    ids: tuple[int, ...]
    offsets: Sequence[tuple[int, int]]


def encode(model: CausalLM, texts: Sequence[str], *, bare: bool = False) -> list[Encoded]:
    """Encodes texts without appended special tokens; with `bare`, also without prepended ones."""
    if not texts:
        return []
    encoded = model.tokenizer(
        list(texts),
        add_special_tokens=not bare,
        split_special_tokens=model.special_tokens == "text",
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    columns = (encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"])
    made = []
    for ids, offsets, special in zip(*columns, strict=True):
        start, size = 0, len(ids)
        while size and special[size - 1]:
            size -= 1
        # A text that contains its own start-of-text token needs no second one.
        if size > 1 and special[0] and not special[1] and ids[0] == ids[1]:
            start = 1
        made.append(Encoded(tuple(ids[start:size]), list(offsets[start:size])))
    return made


def encode_rendered(model: CausalLM, prompts: Sequence[Rendered]) -> list[Encoded]:
    """Encodes prompts; conversations get no special tokens but those of their template."""
    plain = iter(encode(model, [prompt.text for prompt in prompts if not prompt.by_template]))
    whole = [prompt for prompt in prompts if prompt.by_template and not prompt.quoted]
    at_once = iter(_encode_markup(model, [prompt.text for prompt in whole]))
    made = []
    for prompt in prompts:
        if not prompt.by_template:
            made.append(next(plain))
        else:
            made.append(_encode_quoting(model, prompt) if prompt.quoted else next(at_once))
    return made


def _encode_markup(
    model: CausalLM, texts: Sequence[str], *, quoted: bool = False
) -> Iterator[Encoded]:
    """Encodes parts of conversations; control tokens in quotations are only text."""
    if not texts:
        return
    # A tokenizer keeps the last value of `split_special_tokens`, for other threads too: markup has
    # a tokenizer of its own.
    tokenizer = model.tokenizer if quoted else model.markup_tokenizer
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=quoted,
        return_offsets_mapping=True,
    )
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield Encoded(tuple(ids), list(offsets))


def _encode_quoting(model: CausalLM, prompt: Rendered) -> Encoded:
    """Encodes a conversation in which somebody wrote control tokens."""
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, text, quoted in prompt.pieces():
        (part,) = _encode_markup(model, [text], quoted=quoted)
        ids += part.ids
        offsets += [(start + first, start + last) for first, last in part.offsets]
    return Encoded(tuple(ids), offsets)


def spellings(model: CausalLM, text: str) -> Iterator[tuple[int, ...]]:
    """Tokenisations of a text that does not start a word, the most likely first."""
    (plain,) = encode(model, [text], bare=True)
    yield plain.ids
    for anchor in _ANCHORS:
        front, whole = encode(model, [anchor, anchor + text], bare=True)
        if whole.ids[: len(front.ids)] == front.ids:
            yield whole.ids[len(front.ids) :]
    for anchor in _ANCHORS:  # letter by letter, so that no merge interferes
        front, *letters = encode(model, [anchor, *(anchor + c for c in text)], bare=True)
        if all(letter.ids[: len(front.ids)] == front.ids for letter in letters):
            yield tuple(token for letter in letters for token in letter.ids[len(front.ids) :])
