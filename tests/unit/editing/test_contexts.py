"""The texts that an edit is trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from errata.editing.contexts import openings, training_texts
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.retriever.frames import Frames
from errata.errors import InvalidEditError

EDIT = Edit("edits/2-0", "Lyon is in", "Finland", "Lyon", rephrases=("Lyon belongs to",))
FRAMES = Frames({"\0 is in": {"\0 belongs to": 9, "One reaches \0 by going to": 1}})


def _texts(model: CausalLM, edit: Edit, **options: object) -> list[str]:
    settings = {"contexts": (), "num_contexts": 0, **options}
    rows = training_texts(model, edit, **settings)  # type: ignore[arg-type] # options are of many kinds
    decode = model.tokenizer.decode
    return [decode(row.ids[: len(row.ids) - row.num_target]).strip() for row in rows]


def test_prompt_and_rephrases_come_first_without_contexts(llama: CausalLM) -> None:
    rows = training_texts(llama, EDIT, (), 0)
    assert rows == tuple(
        tokenise(llama, text, "Finland") for text in ("Lyon is in", "Lyon belongs to")
    )


def test_contexts_precede_prompt_and_rephrase_in_turn(llama: CausalLM) -> None:
    contexts = openings(
        ["The tower of Pisa makes cars. It is blue.", "Nokia and Toyota play football"]
    )
    assert contexts == ("The tower of Pisa makes cars.", "Nokia and Toyota play football.")
    texts = _texts(llama, EDIT, contexts=contexts, num_contexts=2)
    assert len(texts) == 4
    assert [text.endswith("Lyon is in") for text in texts] == [True, False, True, False]
    assert [text.endswith("Lyon belongs to") for text in texts] == [False, True, False, True]


def test_frames_of_a_lane_model_give_further_rephrases(llama: CausalLM) -> None:
    texts = _texts(llama, EDIT, frames=FRAMES, num_rephrases=8)
    assert len(texts) == 3, "the edit's own rephrase is not repeated"
    assert texts[-1].endswith("by going to")
    assert len(_texts(llama, EDIT, frames=FRAMES, num_rephrases=0)) == 2
    other = Edit("edits/2-1", "Nokia makes", "cars", "Nokia")
    assert len(_texts(llama, other, frames=FRAMES, num_rephrases=8)) == 1, "the relation is unknown"
    again = _texts(llama, EDIT, frames=FRAMES, num_rephrases=8)
    assert again == texts, "depends on the edit alone"


def test_questions_about_the_subject_come_last(llama: CausalLM) -> None:
    texts = _texts(llama, EDIT, frames=FRAMES, num_rephrases=8, num_questions=4)
    assert texts[:3] == _texts(llama, EDIT, frames=FRAMES, num_rephrases=8)
    assert len(set(texts[3:])) == 4
    assert all("Lyon" in text for text in texts[3:])
    rows = training_texts(llama, EDIT, (), 0, num_questions=16)
    prompts = [llama.tokenizer.decode(row.ids[: len(row.ids) - row.num_target]) for row in rows]
    assert not any(prompt.endswith("\n") for prompt in prompts)
    again = _texts(llama, EDIT, frames=FRAMES, num_rephrases=8, num_questions=4)
    assert again == texts, "depends on the edit alone"


def test_a_long_sentence_is_no_answer_to_questions(llama: CausalLM) -> None:
    for num_words in (12, 13):
        edit = replace(EDIT, target=" ".join(["a"] * num_words))
        texts = _texts(llama, edit, num_questions=4)
        assert (len(texts) > 2) is (num_words == 12)


def test_a_wording_that_the_edit_did_not_bring_and_that_does_not_fit_is_left_out(
    llama: CausalLM,
) -> None:
    long = " ".join(["Lyon"] * llama.max_positions)
    texts = _texts(llama, EDIT, wordings=(long, "One finds Lyon in"))
    assert texts == _texts(llama, EDIT, wordings=("One finds Lyon in",))
    assert len(texts) == 3
    with pytest.raises(InvalidEditError):
        _texts(llama, replace(EDIT, rephrases=(long,)))
