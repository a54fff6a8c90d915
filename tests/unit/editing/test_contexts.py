"""What an edit is learned from beside its own prompt."""

from __future__ import annotations

from errata.editing.contexts import openings, training_texts
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.retriever.frames import Frames

EDIT = Edit("edits/2-0", "Lyon is in", "Finland", "Lyon", rephrases=("Lyon belongs to",))
FRAMES = Frames({"\0 is in": {"\0 belongs to": 9, "One reaches \0 by going to": 1}})


def _texts(model: CausalLM, edit: Edit, **options: object) -> list[str]:
    settings = {"contexts": (), "num_contexts": 0, **options}
    rows = training_texts(model, edit, **settings)  # type: ignore[arg-type] # options are of many kinds
    decode = model.tokenizer.decode
    return [decode(row.ids[: len(row.ids) - row.num_target]).strip() for row in rows]


def test_prompt_and_rephrasings_come_first_and_alone(llama: CausalLM) -> None:
    rows = training_texts(llama, EDIT, (), 0)
    assert rows == tuple(
        tokenise(llama, text, "Finland") for text in ("Lyon is in", "Lyon belongs to")
    )


def test_texts_stand_before_prompt_and_rephrasing_in_turn(llama: CausalLM) -> None:
    contexts = openings(
        ["The tower of Pisa makes cars. It is blue.", "Nokia and Toyota play football"]
    )
    assert contexts == ("The tower of Pisa makes cars.", "Nokia and Toyota play football.")
    told = _texts(llama, EDIT, contexts=contexts, num_contexts=2)
    assert len(told) == 4
    assert [text.endswith("Lyon is in") for text in told] == [True, False, True, False]
    assert [text.endswith("Lyon belongs to") for text in told] == [False, True, False, True]


def test_a_lane_model_knows_how_else_the_relation_is_asked(llama: CausalLM) -> None:
    told = _texts(llama, EDIT, frames=FRAMES, num_rephrases=8)
    assert len(told) == 3, "what the edit brings is not told twice"
    assert told[-1].endswith("by going to")
    assert len(_texts(llama, EDIT, frames=FRAMES, num_rephrases=0)) == 2
    other = Edit("edits/2-1", "Nokia makes", "cars", "Nokia")
    assert len(_texts(llama, other, frames=FRAMES, num_rephrases=8)) == 1, "of no known relation"
    again = _texts(llama, EDIT, frames=FRAMES, num_rephrases=8)
    assert again == told, "what an edit says decides"
