"""The training of a gate: its facts, batches, losses, calibration, and a tiny training."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.editing.gate_training.batches import OUTSIDE, Batch, Query, batch_of, batches
from errata.editing.gate_training.config import GateTrainingConfig
from errata.editing.gate_training.facts import Fact, FactSource
from errata.editing.gate_training.names import Names
from errata.editing.gate_training.objective import (
    batch_losses,
    identity_numbers,
    retrieval_losses,
)
from errata.editing.gate_training.relations import GAP, Relation, by_wording, load_relations
from errata.editing.gate_training.training import GateTrainer
from errata.editing.gate_training.validation import Scores, calibrated
from errata.editing.gate_training.wordings import varied
from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever import gate_file
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.examples import Example, frames_of, split, wordings_of
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.start import new_lane_model
from errata.editing.retriever.training import Trainer
from errata.editing.retriever.training_config import TrainingConfig
from errata.errors import PreconditionError
from errata.evaluation.edit.exposure import frames_in
from tests.unit.editing.gates import make_gate

RELATIONS = load_relations()
TRAINED = [relation for relation in RELATIONS if not relation.held_out]
CPU = torch.device("cpu")
TINY = GateTrainingConfig(
    d_r=16,
    num_sentinel=2,
    max_tokens=32,
    frozen_layers=1,
    batch=8,
    pool=2,
    num_validation=4,
    max_steps=10,
)


def _examples(number: int = 24) -> list[Example]:
    return [
        Example(
            prompt=f"The mother tongue of Danielle{n} is",
            target="Finnish",
            subject=f"Danielle{n}",
            rephrases=(f"Danielle{n} grew up with", f"At home Danielle{n} speaks"),
            locality=((f"The mother tongue of Pisa{n} is", "Italian"),),
        )
        for n in range(number)
    ]


def test_no_training_reads_a_wording_of_a_held_out_relation() -> None:
    held_out = [relation for relation in RELATIONS if relation.held_out]
    assert len(held_out) >= 0.15 * len(RELATIONS)
    assert not by_wording(held_out).keys() & by_wording(TRAINED).keys()
    assert not {r.topic for r in held_out} & {r.topic for r in TRAINED}


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_every_relation_has_wordings_with_one_gap(relation: Relation) -> None:
    assert len(set(relation.wordings)) == len(relation.wordings) >= 3
    assert all(w.count(GAP) == 1 for w in relation.wordings)


def test_a_varied_wording_keeps_its_gap_and_usually_differs() -> None:
    rng = random.Random(0)
    wordings = [w for relation in TRAINED for w in relation.wordings]
    found = [(wording, varied(wording, rng)) for wording in wordings]
    assert all(new.count(GAP) == 1 for _, new in found)
    assert sum(old != new for old, new in found) > 0.6 * len(found)


def test_a_near_name_differs_in_one_word_or_digit() -> None:
    names, rng = Names({"person": ["Danielle Darrieux", "Toko Yasuda"]}), random.Random(0)
    for name in ("HD 180902", "USS Parrott (DD-218)", "Toko Yasuda"):
        for _ in range(20):
            near = names.near(name, rng)
            assert near != name
            words = list(zip(name.split(), near.split(), strict=True))
            assert sum(a != b for a, b in words) == 1


def test_every_kind_of_subject_and_answer_has_names() -> None:
    names, rng = Names({}), random.Random(0)
    kinds = {kind for r in RELATIONS for kind in (*r.subjects, r.answer)}
    assert all(names.draw(kind, rng).strip() for kind in kinds)
    drawn = Names({"person": ["Toko Yasuda"]})
    assert "Toko Yasuda" in {drawn.draw("person", rng) for _ in range(30)}


def test_a_records_questions_are_those_of_its_relation() -> None:
    source = FactSource(_examples(), TRAINED, varied_share=0.0)
    rng = random.Random(0)
    native = next(r for r in TRAINED if r.name == "native_language")
    asked = {question for _ in range(60) for question in source.record(3, rng)[0].questions}
    assert native.asked("What is the mother tongue of {}?", "Danielle3") in asked
    assert "Danielle3 grew up with" in asked
    others = [fact for _ in range(20) for fact in source.record(3, rng)[1:]]
    assert others, "facts in other relations occur"
    assert {fact.subject for fact in others} == {"Danielle3"}
    assert native.topic not in {fact.topic for fact in others}


def test_batches_say_whose_each_query_is() -> None:
    source = FactSource(_examples(), TRAINED, varied_share=0.3)
    made = list(itertools.islice(batches(source, 32, 0.5, 0.7, random.Random(0)), 5))
    for batch in made:
        assert len(set(batch.identities)) == len(batch.identities) == len(batch.statements)
        for query in batch.queries:
            if query.key == OUTSIDE:
                assert query.identity not in batch.identities
            else:
                assert batch.identities[query.key] == query.identity
    assert all(any(q.key == OUTSIDE for q in batch.queries) for batch in made)
    again = itertools.islice(batches(source, 32, 0.5, 0.7, random.Random(0)), 5)
    assert list(again) == made, "the same seed gives the same batches"


def test_a_fact_that_is_not_stored_only_asks() -> None:
    stored = Fact("Toko", "play", "Toko plays the", "piano", ("What does Toko play?",), ("Else?",))
    other = Fact("Toko", "birth", "Toko was born in", "Pisa", ("Where was Toko born?",))
    rng = random.Random(0)
    both = batch_of([stored, other, stored], 1.0, rng)
    assert both.statements == ("Toko plays the piano", "Toko was born in Pisa")
    assert [q.key for q in both.queries] == [0, OUTSIDE, 1]
    none = batch_of([stored, other], 0.0, rng)
    assert not none.statements
    assert {q.key for q in none.queries} == {OUTSIDE}


def test_the_losses_are_those_of_the_candidates_that_count(llama: CausalLM) -> None:
    gate = make_gate(llama)
    torch.manual_seed(1)
    keys, queries = torch.randn(3, 24), torch.randn(4, 24)
    owners = torch.tensor([0, 2, OUTSIDE, OUTSIDE])
    known: dict[str, int] = {}
    key_ids = identity_numbers(["a", "b", "a"], known)
    query_ids = identity_numbers(["a", "a", "", "b"], known)
    found = retrieval_losses(gate, keys, queries, owners, key_ids, query_ids, torch.tensor(0.5))
    s = 0.5 * queries @ torch.cat([keys, gate.sentinel_key()[None]]).T

    def nll(row: int, wanted: int, candidates: list[int]) -> torch.Tensor:
        return s[row, candidates].logsumexp(0) - s[row, wanted]

    torch.testing.assert_close(
        found["neighbour"], (nll(0, 0, [0, 1, 3]) + nll(1, 2, [1, 2, 3])) / 2
    )
    torch.testing.assert_close(found["sentinel"], (nll(0, 3, [1, 3]) + nll(1, 3, [1, 3])) / 2)
    outside = (nll(2, 3, [0, 1, 2, 3]) + nll(3, 3, [0, 2, 3])) / 2
    torch.testing.assert_close(found["outside"], outside)


def test_queries_without_outside_have_no_outside_loss(llama: CausalLM) -> None:
    batch = Batch(("Toko plays piano",), ("a",), (Query("What does Toko play?", 0, "a"),))
    found = batch_losses(make_gate(llama), batch, torch.tensor(1.0))
    assert found["outside"] == 0
    assert found["neighbour"] > 0


def test_calibration_admits_no_more_false_claims_than_allowed() -> None:
    scores = Scores(
        best=torch.tensor([1.0, 0.9, 0.5, 0.8, 0.7, 0.2]),
        limit=torch.ones(6),
        is_right=torch.tensor([True, True, False, False, False, False]),
        inside=torch.tensor([True, True, True, False, False, False]),
    )
    half = scores.claims(calibrated(scores, 0.34))
    assert half.wrongly == pytest.approx(1 / 3)
    assert half.right == pytest.approx(2 / 3)
    none = calibrated(scores, 0.1)
    assert scores.claims(none).wrongly == 0
    assert scores.claims(none).right == pytest.approx(2 / 3)
    assert scores.claims(none - 0.01).wrongly > 0, "the lowest factor that is allowed"


def test_training_writes_a_gate_and_leaves_frozen_layers(llama: CausalLM, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder.small(llama, 32, width=32, depth=2)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    trainer = GateTrainer(encoder, _examples(), TINY, tmp_path / "gate")
    steps: list[float] = []
    report = trainer.run(lambda progress: steps.append(progress.done))
    assert steps == sorted(steps)
    assert len(steps) == TINY.max_steps
    changed = {
        name for name, value in encoder.state_dict().items() if (value != before[name]).any()
    }
    assert changed
    assert not [n for n in changed if "embeddings" in n or "layer.0." in n]
    written = gate_file.load(tmp_path / "gate", CPU)
    assert float(written.calibration) == pytest.approx(report.calibration)
    assert written.frames.by_prompt, "LEMoE and ELDER word rephrasings with them"
    assert 0 <= report.records.right <= 1
    further = GateTrainer(written, _examples(), TINY, tmp_path / "further")
    assert further.model is written
    further.run()
    assert (tmp_path / "further" / "gate.safetensors").exists()
    with pytest.raises(PreconditionError, match="not empty"):
        GateTrainer(encoder, _examples(), TINY, tmp_path / "gate")


def test_what_a_gate_learned_stays_known_in_what_is_trained_from_it(
    llama: CausalLM, tmp_path: Path
) -> None:
    """Otherwise a benchmark counts questions as new that were trained on."""
    first = [replace(e, rephrases=(f"{e.subject} talks",)) for e in _examples()]
    names = [f"Lyon{n}" for n in range(2 * TINY.num_validation)]
    first += [
        Example(
            f"{name} is {n} miles from", "Pisa", name, (f"{n} miles off {name}",), (("It", "is"),)
        )
        for n, name in enumerate(names)
    ]
    torch.manual_seed(0)
    gate = GateTrainer(Encoder.small(llama, 32, width=32, depth=2), first, TINY, tmp_path / "1")
    gate_file.save(gate.model, tmp_path / "gate")
    train, _ = split(first, TINY.num_validation)
    of_first, single = wordings_of(train), wordings_of(train) - frames_of(train).wordings()
    assert "\0 talks" in of_first
    assert single
    project = {w.replace(GAP, "\0") for relation in TRAINED for w in relation.wordings}
    start = gate_file.load(tmp_path / "gate", CPU)
    further = GateTrainer(start, _examples(), TINY, tmp_path / "2")
    gate_file.save(further.model, tmp_path / "further")
    config = TrainingConfig(stages="prompts", num_validation=4, answered=0.0)
    start = gate_file.load(tmp_path / "gate", CPU)
    model = new_lane_model(llama, None, config, start)
    Trainer(llama, model, _examples(), config, tmp_path / "3")
    model.save(tmp_path / "lane")
    for folder in ("further", "lane"):
        found = frames_in(tmp_path / folder).wordings()
        assert found >= of_first | project | {"At home \0 speaks"}
    made = LaneModel.load(tmp_path / "lane", llama)
    kept = made.frames.by_prompt["The mother tongue of \0 is"]
    assert {"\0 talks", "At home \0 speaks"} <= kept.keys(), "edits are learned with both"
    assert single <= made.learned, "the wordings of a single fact are learned, but no frames"
