"""A small language model that the project makes itself, with the facts it was taught.

It lets a first run, the tests and the documentation edit a real model without downloading one.
`demo.train` makes it again from `facts/`; `demo.recall` shows what it knows; `Corpus.demo_edits`
gives edits that contradict it, with the prompts that check them. Those two modules need torch; what
is exported here does not.
"""

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
    "Corpus",
    "DemoEdit",
    "DemoProbe",
    "Fact",
    "Relation",
    "SubjectKind",
    "lanes_path",
    "load_corpus",
    "model_path",
    "prompts",
]
