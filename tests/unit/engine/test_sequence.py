from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from errata.editing.model.causal_lm import CausalLM
from errata.engine.sequence import GrowingText, text_behind_blank, whole_text
from tests.unit.editing.tiny_models import make_tokenizer


class _Pieces:
    """A byte-level tokenizer of the test's own: token i is the i-th piece."""

    def __init__(self, pieces: list[bytes]) -> None:
        letters = bytes_to_unicode()
        names = ["".join(letters[byte] for byte in piece) for piece in pieces]
        self.ids_of = {name: index for index, name in enumerate(dict.fromkeys(names))}
        self.ids = [self.ids_of[name] for name in names]
        self.backend_tokenizer = Tokenizer(models.WordLevel(self.ids_of, unk_token=names[0]))
        self.backend_tokenizer.decoder = decoders.ByteLevel()
        self._bytes = dict(zip(self.ids, pieces, strict=True))

    def decode(self, ids: list[int], **_: bool) -> str:
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", errors="replace")


def _run(pieces: list[bytes], stop: tuple[str, ...]) -> tuple[str, bool]:
    if not pieces:
        return "", False
    tokenizer = _Pieces(pieces)
    text = GrowingText(tokenizer, stop)
    shown = ""
    for token_id in tokenizer.ids:
        shown += text.push(token_id)
        if text.stopped:
            break
    return shown + text.finish(), text.stopped


@pytest.mark.parametrize(
    ("pieces", "stop", "shown", "stopped"),
    [
        ([b"Par", b"is", b". It"], (".",), "Paris", True),
        ([b"a", b"b", b"c"], ("bc",), "a", True),
        ([b"a", b"b", b"d"], ("bc",), "abd", False),
        ([b"\xc3", b"\xa9t"], (), "ét", False),
        ([b"x", b"\xc3"], (), "x\ufffd", False),
        ([b"ab"], ("b", "a"), "", True),
    ],
)
def test_text_ends_before_a_stop_and_between_characters(
    pieces: list[bytes], stop: tuple[str, ...], shown: str, stopped: bool
) -> None:
    assert _run(pieces, stop) == (shown, stopped)


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_pieces_add_up_to_the_text_before_the_first_stop(text: str, stop: list[str]) -> None:
    pieces = [bytes([byte]) for byte in text.encode()]
    found = [text.find(s) for s in stop if s in text]
    assert _run(pieces, tuple(stop)) == (text[: min(found)] if found else text, bool(found))


def test_the_demo_tokenizer_streams_like_it_decodes(shared_model: CausalLM) -> None:
    ids = shared_model.tokenizer("Brasília and São Tomé.", add_special_tokens=False)["input_ids"]
    text = GrowingText(shared_model.tokenizer, ())
    shown = "".join(text.push(token) for token in ids) + text.finish()
    assert shown == shared_model.tokenizer.decode(ids)


_WORDS = ("▁", "▁the", "▁Lyon", "Lyon", "a", "e", "»", "섬", "▁é", ".", "�", "한")
_SPECIAL = ("<unk>", "<s>", "</s>")


def _byte_fallback(steps: list[decoders.Decoder]) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind of Llama 2's: words, and a token for each byte."""
    names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    vocabulary = {name: number for number, name in enumerate(names)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    core.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


_LLAMA_2 = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
_TOKENIZERS = {
    "kept blank": _byte_fallback(_LLAMA_2),
    "stripped blank": _byte_fallback([*_LLAMA_2, decoders.Strip(content=" ", left=1)]),
    "metaspace": _byte_fallback([decoders.ByteFallback(), decoders.Metaspace()]),
    "byte level": make_tokenizer(),
    "no local decoder": _byte_fallback([decoders.WordPiece()]),
}


def _stream(tokenizer: Any, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    text = GrowingText(tokenizer, stop)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            break
    return "".join(pieces) + text.finish(), pieces


@pytest.mark.parametrize("kind", _TOKENIZERS)
@given(data=st.data())
def test_a_stream_of_any_tokens_equals_the_decoded_text(kind: str, data: st.DataObject) -> None:
    tokenizer = _TOKENIZERS[kind]
    token = st.integers(0, len(tokenizer) - 1)
    ids = data.draw(st.lists(token, min_size=1, max_size=14))
    shown, _ = _stream(tokenizer, ids)
    assert shown == whole_text(tokenizer, ids)


@pytest.mark.parametrize("kind", _TOKENIZERS)
@given(data=st.data())
def test_a_text_of_any_tokens_ends_before_the_first_stop(kind: str, data: st.DataObject) -> None:
    tokenizer = _TOKENIZERS[kind]
    token = st.integers(len(tokenizer) - len(_WORDS), len(tokenizer) - 1)
    ids = data.draw(st.lists(token, min_size=1, max_size=10))
    stop = data.draw(st.sampled_from(["on", "e", "섬a", ". ", "th"]))
    shown, _ = _stream(tokenizer, ids, (stop,))
    assert shown == whole_text(tokenizer, ids).partition(stop)[0]


def test_text_is_released_as_soon_as_nothing_can_change_it() -> None:
    tokenizer = _TOKENIZERS["stripped blank"]
    tokens = ["▁Lyon", ".", "<0xE2>", "<0x82>", "<0xAC>", "▁the", "<0xFF>", "a"]
    shown, pieces = _stream(tokenizer, tokenizer.convert_tokens_to_ids(tokens))
    assert pieces == ["Lyon", ".", "", "", "", "€ the", "", "�a"]
    assert shown == "Lyon.€ the�a"


def test_the_cost_of_a_token_does_not_grow_with_the_text() -> None:
    tokenizer = _TOKENIZERS["stripped blank"]
    text = GrowingText(tokenizer, ())
    word = tokenizer.convert_tokens_to_ids("▁the")
    for _ in range(200):
        text.push(word)
    assert len(text.ids) - text._anchor == 1


@pytest.mark.parametrize("kind", _TOKENIZERS)
@given(data=st.data())
def test_an_answer_begins_after_the_blank_of_the_prompt(kind: str, data: st.DataObject) -> None:
    tokenizer = _TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=9))
    text = GrowingText(tokenizer, (), drops_blank=True)
    shown = "".join(map(text.push, ids)) + text.finish()
    assert shown == text_behind_blank(tokenizer, ids)


def test_a_blank_that_decoding_drops_is_not_dropped_twice() -> None:
    tokens = ["▁", "▁Lyon"]
    for kind, expected in (("kept blank", " Lyon"), ("stripped blank", " Lyon")):
        tokenizer = _TOKENIZERS[kind]
        assert text_behind_blank(tokenizer, tokenizer.convert_tokens_to_ids(tokens)) == expected
