"""A small language model that ships with the package, and the facts it was trained on.

A first run, the tests and the documentation edit a real model without a download. `demo.train`
trains it again from `facts/`; `demo.recall` measures what it knows; `Corpus.demo_edits` gives edits
that contradict it, with the prompts that check them. The two modules need torch; the names exported
here do not. `chat_edits` has edits for a larger chat model, which does not ship with the package.
"""

from errata.demo.chat_edits import ChatEdit, ChatProbe, chat_edits, chat_lanes_path, says
from errata.demo.corpus import (
    Corpus,
    DemoEdit,
    DemoProbe,
    Fact,
    Relation,
    SubjectKind,
    load_corpus,
    prompts,
)
from errata.demo.location import lanes_path, model_path

__all__ = [
    "ChatEdit",
    "ChatProbe",
    "Corpus",
    "DemoEdit",
    "DemoProbe",
    "Fact",
    "Relation",
    "SubjectKind",
    "chat_edits",
    "chat_lanes_path",
    "lanes_path",
    "load_corpus",
    "model_path",
    "prompts",
    "says",
]
