"""Tokenising prompts, targets and subjects."""

from __future__ import annotations

import functools

import pytest
import torch
from tokenizers import normalizers

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import join, pad_right, positions, subject_end, tokenise
from errata.errors import InvalidEditError
from tests.unit.editing.tiny_models import make_model


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("The capital is", "Paris", "The capital is Paris"),
        ("The capital is ", "Paris", "The capital is Paris"),
        ("The capital is", " Paris", "The capital is Paris"),
        ("The capital is\n", "Paris", "The capital is\nParis"),
    ],
)
def test_join_puts_one_separator(prompt: str, target: str, text: str) -> None:
    assert join(prompt, target) == text


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("target", ["French", " French", "東京", "Äpfel wachsen", "x"])
def test_target_tokens_are_those_of_the_full_text_without_the_prompt(
    target: str, bos: bool
) -> None:
    model = make_model("llama", bos=bos)
    prompt = "The mother tongue of Danielle Darrieux is"
    row = tokenise(model, prompt, target)
    full = model.tokenizer(join(prompt, target))["input_ids"]
    assert list(row.ids) == full
    assert (row.ids[0] == 0) == bos
    tail = model.tokenizer.decode(row.ids[-row.num_target :])
    assert tail.strip() == target.strip()
    head = model.tokenizer.decode(row.ids[: -row.num_target], skip_special_tokens=True)
    assert head == prompt


def test_token_across_the_seam_belongs_to_the_target(llama: CausalLM) -> None:
    row = tokenise(llama, "The cap", "ital")
    assert llama.tokenizer.decode(row.ids[-row.num_target :]) == " ital"
    # no blank is put in when the target brings white space or the prompt ends with it
    seam = tokenise(llama, "Danielle Darri ", "eux")
    assert llama.tokenizer.decode(seam.ids[-seam.num_target :]).endswith("eux")


def test_appended_special_tokens_are_left_out(llama: CausalLM) -> None:
    from tokenizers import processors

    plain = tokenise(llama, "Lyon is", "Beirut")
    llama.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)]
    )
    assert llama.tokenizer("Lyon")["input_ids"][-1] == 0
    assert tokenise(llama, "Lyon is", "Beirut") == plain


@pytest.mark.parametrize(
    ("prompt", "subject", "read"),
    [
        (
            "The tongue of Danielle Darrieux is",
            "Danielle Darrieux",
            "The tongue of Danielle Darrieux",
        ),
        ("Lyon and Lyon again", "Lyon", "Lyon and Lyon"),
        ("Lyon plays as Lyonnaise", "Lyon", "Lyon"),
        ("東京は日本の首都です", "東京", "東京"),
        ("You know. Nokia is Nokia. Nokia was", "Nokia", "You know. Nokia is Nokia. Nokia"),
    ],
)
def test_subject_index_is_its_last_occurrence(
    llama: CausalLM, prompt: str, subject: str, read: str
) -> None:
    assert prompt[: subject_end(prompt, subject)] == read
    index = tokenise(llama, prompt, "x", subject=subject).subject_index
    ids = tokenise(llama, prompt).ids
    text = llama.tokenizer.decode(ids[: index + 1], skip_special_tokens=True)
    assert text.startswith(read)
    shorter = llama.tokenizer.decode(ids[:index], skip_special_tokens=True)
    assert not shorter.startswith(read)


@pytest.mark.parametrize(
    ("prompt", "target", "subject", "message", "field"),
    [
        ("Lyon is", "x", "Paris", "does not occur", "subject"),
        ("Lyon is", "x", " ", "does not occur", "subject"),
        ("Lyon is " * 60, "x", "Lyon", "the model takes 64", "prompt"),
    ],
)
def test_unusable_text_is_refused(
    llama: CausalLM, prompt: str, target: str, subject: str, message: str, field: str
) -> None:
    with pytest.raises(InvalidEditError, match=message) as caught:
        tokenise(llama, prompt, target, subject=subject)
    assert caught.value.field == field


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidEditError, match="empty") as caught:
        tokenise(make_model("llama", bos=False), "")
    assert caught.value.field == "prompt"


def test_a_target_that_the_tokenizer_drops_is_refused() -> None:
    model = make_model("llama")
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(InvalidEditError, match="has no token") as caught:
        tokenise(model, "Lyon is", "\u200b", stated="")
    assert caught.value.field == "target"


def test_padding_is_masked_and_positions_count_real_tokens(llama: CausalLM) -> None:
    ids, mask = pad_right(llama, [(5, 6, 7), (8,)])
    assert ids.tolist() == [[5, 6, 7], [8, llama.pad_id, llama.pad_id]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    left = torch.tensor([[0, 0, 1, 1]])
    assert positions(left).tolist() == [[0, 0, 0, 1]]


@functools.cache
def _reading(bos: bool) -> CausalLM:
    """A model that nobody changes."""
    return make_model("llama", bos=bos)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("target", ["Beirut", "850", "東京", "é", "x y", "."])
@pytest.mark.parametrize("stated", [None, "", " ", "\n"])
@pytest.mark.parametrize(
    "prompt", ["Lyon is", "Lyon is ", "Lyon is  ", "Lyon is\n", "Lyon (", "東京は", "Lyon's", "$"]
)
def test_a_target_follows_the_same_tokens_as_in_a_request(
    prompt: str, stated: str | None, target: str, bos: bool
) -> None:
    model = _reading(bos)
    asked, row = tokenise(model, prompt), tokenise(model, prompt, target, stated=stated)
    assert row.ids[: -row.num_target] == asked.ids
    text = model.tokenizer.decode(row.ids, skip_special_tokens=True)
    assert text == join(prompt, target, stated)
    assert row.leaves_blank == asked.leaves_blank


def test_a_blank_at_the_end_is_left_to_the_next_word(llama: CausalLM) -> None:
    without = tokenise(llama, "Lyon is")
    asked = tokenise(llama, "Lyon is ")
    assert asked.ids == without.ids
    assert asked.leaves_blank
    assert tokenise(llama, "Lyon is ", "Beirut").ids == tokenise(llama, "Lyon is", "Beirut").ids
    for kept in ("Lyon is\n", "Lyon is", " "):
        assert not tokenise(llama, kept).leaves_blank, kept


def test_a_merge_across_the_seam_is_spelled_behind_the_prompt(llama: CausalLM) -> None:
    whole = llama.tokenizer("The capital")["input_ids"]
    asked, row = tokenise(llama, "The cap"), tokenise(llama, "The cap", "ital", stated="")
    assert list(row.ids) != whole, "the control: the tokens of the whole text differ"
    assert row.ids[: len(asked.ids)] == asked.ids
    assert llama.tokenizer.decode(row.ids, skip_special_tokens=True) == "The capital"


def test_a_token_without_an_embedding_is_refused_by_name(llama: CausalLM) -> None:
    llama.tokenizer.add_tokens(["Errata"])
    with pytest.raises(InvalidEditError, match=r"'Errata'.*embeddings"):
        tokenise(llama, "The name is Errata")
    assert tokenise(llama, "The name is").ids


def test_a_control_token_is_text_by_default(llama: CausalLM) -> None:
    written = "<|end|>Lyon<|end|> is"
    safe = tokenise(llama, written)
    assert safe.ids.count(0) == 1, "only the tokenizer's own start of text"
    assert llama.tokenizer.decode(safe.ids[1:]) == written
    parsing = CausalLM(llama.model, llama.tokenizer, special_tokens="parse")
    parsed = tokenise(parsing, written)
    assert parsed.ids[0] == 0
    assert parsed.ids[1] != 0, "a prompt with its own start of text gets no second one"
    assert parsed.ids.count(0) == 2
    assert tokenise(parsing, "Lyon is").ids == tokenise(llama, "Lyon is").ids
    assert parsing.digest != llama.digest, "replicas that read prompts differently do not agree"
