import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from errata.editing.causal_lm import CausalLM
from errata.engine.sequence import GrowingText


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
