"""A small language model that the project makes itself, with the facts it was taught.

It lets a first run, the tests and the documentation edit a real model without downloading one.
`train` makes it again from `facts/`; `recall` shows what it knows; `Corpus.demo_edits` gives edits
that contradict it, with the prompts that check them.
"""

from errata.demo.corpus import (
    Corpus,
    DemoEdit,
    Fact,
    Kind,
    Probe,
    Relation,
    load_corpus,
    prompts,
)
from errata.demo.location import model_path
from errata.demo.recall import RecallReport, answer, recall
from errata.demo.train import TrainConfig, TrainReport, train

__all__ = [
    "Corpus",
    "DemoEdit",
    "Fact",
    "Kind",
    "Probe",
    "RecallReport",
    "Relation",
    "TrainConfig",
    "TrainReport",
    "answer",
    "load_corpus",
    "model_path",
    "prompts",
    "recall",
    "train",
]
