"""Meta-training learns, goes on where it was, and always gives the same for the same seed."""

import csv
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.editing.causal_lm import CausalLM
from errata.editing.frames import Frames
from errata.editing.recipe import objective, training
from errata.editing.recipe.examples import (
    Answerer,
    Borrower,
    Deck,
    Draw,
    Example,
    Inventor,
    frames_of,
    split,
)
from errata.editing.recipe.lane_model import LaneModel
from errata.editing.recipe.objective import LOSSES, Pooled, losses, scope_losses
from errata.editing.recipe.start import new_lane_model, start_prompts, start_retriever
from errata.editing.recipe.training import Progress, Trainer
from errata.editing.recipe.training_config import PRESETS, TrainingConfig
from errata.editing.recipe.validation import calibrated, validate
from errata.errors import FitError, InvalidRequestError, PreconditionError
from tests.unit.editing.recipe_models import D_R, make_lane_model

TINY = TrainingConfig(
    d_r=D_R, width=32, depth=1, max_tokens=32, batch=4, num_validation=4, evaluate_every=3,
    max_steps=6, warmup_steps=1, learning_rate=3e-3, encoder_learning_rate=1e-3, alike=2,
    stages="joint", locality_weight=0.2, answered=0.0,
)  # fmt: skip
SCALE = torch.tensor(D_R**-0.5)
_TOWNS = ("Lyon", "Pisa", "Helsinki", "Bordeaux")


def _examples(number: int = 24) -> list[Example]:
    return [
        Example(
            prompt=f"Nokia{n} was founded in the town of",
            target=_TOWNS[n % 4],
            subject=f"Nokia{n}",
            rephrases=(f"Nokia{n} comes from", f"The home of Nokia{n} is"),
            locality=((f"Toyota{n} was founded in the town of", _TOWNS[(n + 1) % 4]),),
        )
        for n in range(number)
    ]


def _trainer(llama: CausalLM, out: Path, config: TrainingConfig = TINY) -> Trainer:
    return Trainer(llama, new_lane_model(llama, None, config), _examples(), config, out)


def test_training_makes_losses_smaller(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"max_steps": 60, "evaluate_every": 60, "alike": 1})
    trainer = _trainer(llama, tmp_path / "out", config)
    seen: list[Progress] = []
    trainer.run(seen.append)
    first, last = seen[2].losses, seen[-1].losses
    # `neighbour` and `sentinel` pull at the same keys: on so few facts only their sum must fall
    assert sum(last.values()) < sum(first.values()) - 1
    for name in ("outside", "reliability", "generality"):
        assert last[name] < first[name], name
    assert math.isclose(seen[-1].done, 1)
    assert [stand.step for stand in seen] == list(range(1, 61))


def test_in_two_stages_the_retriever_stays_while_prompts_learn(
    llama: CausalLM, tmp_path: Path
) -> None:
    config = TINY.model_copy(
        update={
            "stages": "apart",
            "retriever_share": 0.75,
            "scope_share": 0.0,
            "max_steps": 16,
            "evaluate_every": 1,
        }
    )
    trainer = _trainer(llama, tmp_path / "out", config)
    states: dict[int, dict[str, torch.Tensor]] = {}
    trained: dict[int, set[str]] = {}

    def note(stand: Progress) -> None:
        states[stand.step] = {n: t.clone() for n, t in trainer.model.state_dict().items()}
        trained[stand.step] = set(stand.losses)

    trainer.run(note)
    assert trained[12] == {"neighbour", "sentinel", "outside"}
    assert trained[16] == set(LOSSES)
    rows = list(csv.DictReader((tmp_path / "out/training.csv").read_text().splitlines()))
    claims = {
        int(row["step"]): _harmonic(float(row["claimed_right"]), 1 - float(row["claimed_wrongly"]))
        for row in rows[:12]
    }
    best = max(claims, key=lambda step: claims[step])  # the first of equal ones
    assert best not in (1, 12), "else this shows nothing"
    for first, second, part in ((1, 12, "prompt_mlp"), (best, 16, "")):
        for name in states[first]:
            same = torch.equal(states[first][name], states[second][name])
            is_prompts = name.startswith("prompt_mlp") and not name.endswith("scale")
            if part:
                assert same or not is_prompts, f"{name} waits for its stage"
            else:
                assert same is not is_prompts or "copy" in name, name


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a and b else 0.0


@pytest.mark.parametrize("stages", ["joint", "apart"])
@pytest.mark.parametrize("interrupted_at", [3, 4])
def test_an_interrupted_training_gives_the_same_bits(
    llama: CausalLM, tmp_path: Path, interrupted_at: int, stages: str
) -> None:
    config = TINY.model_copy(update={"stages": stages})
    whole = _trainer(llama, tmp_path / "whole", config)
    whole.run()

    def interrupt(stand: Progress) -> None:
        if stand.step == interrupted_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _trainer(llama, tmp_path / "parts", config).run(interrupt)
    steps: list[int] = []
    _trainer(llama, tmp_path / "parts", config).run(lambda stand: steps.append(stand.step))
    assert steps == [4, 5, 6], "goes on behind the checkpoint"
    for name in ("lane_model.safetensors", "training.csv"):
        first, second = ((tmp_path / x / name).read_bytes() for x in ("whole", "parts"))
        if name.endswith("csv"):
            first, second = (_without_seconds(text.decode()) for text in (first, second))
        assert first == second, name


def _without_seconds(text: str) -> bytes:
    rows = list(csv.DictReader(text.splitlines()))
    return repr([{k: v for k, v in row.items() if k != "seconds"} for row in rows]).encode()


def test_the_encoders_dropout_is_a_setting(llama: CausalLM, tmp_path: Path) -> None:
    for dropout in (False, True):
        config = TINY.model_copy(update={"dropout": dropout, "max_steps": 1})
        trainer = _trainer(llama, tmp_path / str(dropout), config)
        modes: set[bool] = set()
        trainer.model.encoder.register_forward_hook(
            lambda module, *_, modes=modes: modes.add(module.training)  # type: ignore[misc]
        )
        trainer._step(next(trainer._draws()))
        assert modes == {dropout}


def test_the_best_checkpoint_by_validation_is_what_is_kept(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"max_steps": 12})
    trainer = _trainer(llama, tmp_path / "out", config)
    found = trainer.run()
    rows = list(csv.DictReader((tmp_path / "out/training.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert all(f"loss.{name}" in rows[0] for name in LOSSES)
    best = max(rows, key=lambda row: float(row["score"]))
    kept = LaneModel.load(tmp_path / "out", llama)
    _, held_out = split(_examples(), config.num_validation)
    measured = validate(kept, llama, held_out, torch.zeros(0, D_R))
    # the one figure that does not hang on the distractors
    assert measured.with_own_prompt == pytest.approx(float(best["with_own_prompt"]), abs=1e-4)
    assert found.with_own_prompt == measured.with_own_prompt
    mine, theirs = trainer.model.state_dict(), kept.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_training_ends_when_nothing_gets_better(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"max_steps": 500, "evaluate_every": 1, "patience": 2, "learning_rate": 1e-9,
                "encoder_learning_rate": 1e-9}
    )  # fmt: skip
    steps: list[int] = []
    _trainer(llama, tmp_path / "out", config).run(lambda stand: steps.append(stand.step))
    assert steps[-1] <= 5


def test_patience_waits_for_the_second_stage(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"stages": "apart", "retriever_share": 0.7, "scope_share": 0.1, "max_steps": 10,
                "evaluate_every": 1, "patience": 1}
    )  # fmt: skip
    losses_seen: set[str] = set()
    _trainer(llama, tmp_path / "out", config).run(lambda stand: losses_seen.update(stand.losses))
    assert losses_seen == set(LOSSES), "MLP_P had its turn"


def test_training_ends_with_its_time(llama: CausalLM, tmp_path: Path) -> None:
    model = new_lane_model(llama, None, TINY)
    trainer = Trainer(llama, model, _examples(), TINY, tmp_path / "out", max_seconds=1e-6)
    steps: list[int] = []
    trainer.run(lambda stand: steps.append(stand.step))
    assert steps == [1]
    assert (tmp_path / "out/lane_model.safetensors").exists()


def test_only_prompts_can_be_learned_on_another_lane_models_retriever(
    llama: CausalLM, tmp_path: Path
) -> None:
    _trainer(llama, tmp_path / "whole").run()
    known = LaneModel.load(tmp_path / "whole", llama)
    before = {name: tensor.clone() for name, tensor in known.state_dict().items()}
    config = TINY.model_copy(update={"stages": "prompts", "num_prompt": 7, "d_r": 99})
    model = new_lane_model(llama, None, config, known)
    Trainer(llama, model, _examples(), config, tmp_path / "prompts").run()
    made = LaneModel.load(tmp_path / "prompts", llama)
    assert (made.shape.num_prompt, made.shape.d_r) == (7, D_R)
    for name, tensor in made.state_dict().items():
        if not name.startswith("prompt_mlp"):
            assert torch.equal(tensor, before[name]), name
    stranger = new_lane_model(llama, None, config, make_lane_model(llama, seed=9))
    with pytest.raises(PreconditionError, match="other settings"):
        Trainer(llama, stranger, _examples(), config, tmp_path / "prompts")
    with pytest.raises(InvalidRequestError, match="goes with stages"):
        new_lane_model(llama, None, TINY, known)
    with pytest.raises(InvalidRequestError, match="goes with stages"):
        new_lane_model(llama, None, config)


def test_a_loss_that_is_not_finite_ends_training_with_a_reason(
    llama: CausalLM, tmp_path: Path
) -> None:
    trainer = _trainer(llama, tmp_path / "out")
    with torch.no_grad():
        trainer.model.sentinel.fill_(float("nan"))
    with pytest.raises(FitError, match="learning rate"):
        trainer.run()


def test_a_folder_of_another_training_is_left_alone(llama: CausalLM, tmp_path: Path) -> None:
    _trainer(llama, tmp_path / "out").run()
    kept = (tmp_path / "out/lane_model.safetensors").read_bytes()
    with pytest.raises(PreconditionError, match="other settings"):
        _trainer(llama, tmp_path / "out", TINY.model_copy(update={"seed": 7}))
    model = new_lane_model(llama, None, TINY)
    others = [replace(example, target="Oslo") for example in _examples()]
    with pytest.raises(PreconditionError, match="data"):
        Trainer(llama, model, others, TINY, tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").touch()
    with pytest.raises(PreconditionError, match="not empty"):
        _trainer(llama, tmp_path / "foreign")
    assert (tmp_path / "out/lane_model.safetensors").read_bytes() == kept


def test_the_split_goes_by_subject_and_is_always_the_same() -> None:
    examples = [replace(e, subject=f"S{n // 2}") for n, e in enumerate(_examples(40))]
    train, held_out = split(examples, 9)
    assert len(train) + len(held_out) == 40
    assert {e.subject for e in train}.isdisjoint(e.subject for e in held_out)
    shuffled = random.Random(1).sample(examples, len(examples))
    assert split(shuffled, 9) == (train, held_out)
    with pytest.raises(InvalidRequestError, match="too few"):
        split(examples, 20)
    with pytest.raises(InvalidRequestError, match="record 3"):
        split([*examples[:3], replace(examples[3], rephrases=())], 1)


def test_in_a_batch_all_subjects_differ_and_an_epoch_leaves_few_out() -> None:
    examples = [replace(e, subject=f"S{n % 10}") for n, e in enumerate(_examples(40))]
    batches = list(Deck(examples).epoch(5, random.Random(0)))
    drawn = [draw.example for batch in batches for draw in batch]
    assert all(len({draw.example.subject for draw in batch}) == 5 for batch in batches)
    assert len(drawn) == len({e.prompt for e in drawn}) >= 35
    again = list(Deck(examples).epoch(5, random.Random(0)))
    assert again == batches
    assert list(Deck(examples).epoch(5, random.Random(1))) != batches


def test_made_up_names_stand_in_for_the_subject_everywhere() -> None:
    examples = _examples(8)
    inventor, rng = Inventor(examples), random.Random(0)
    told = inventor.retold(examples[0], rng)
    assert told.subject not in {example.subject for example in examples[:1]}
    assert told.target == examples[0].target
    for before, after in zip(
        (examples[0].prompt, *examples[0].rephrases), (told.prompt, *told.rephrases), strict=True
    ):
        assert after == before.replace("Nokia0", told.subject)
    touched = {prompt for prompt, _ in told.locality} - {p for p, _ in examples[0].locality}
    assert touched <= {examples[0].prompt, *examples[0].rephrases}, "the true one must not be hit"
    odd = replace(examples[1], rephrases=("It comes from",))
    assert inventor.retold(odd, rng) == odd, "a text without the subject cannot be retold"
    batches = list(Deck(examples, invented=1.0).epoch(4, random.Random(0)))
    known = {example.subject for example in examples}
    drawn = {draw.example.subject for batch in batches for draw in batch}
    assert len(drawn - known) > 4
    assert list(Deck(examples, invented=1.0).epoch(4, random.Random(0))) == batches


def test_a_batch_holds_groups_of_facts_that_are_alike() -> None:
    examples = _examples(20)
    likes = [[n ^ 1, (n + 10) % 20] for n in range(20)]
    batches = list(Deck(examples, likes=likes, group=2).epoch(4, random.Random(0)))
    assert len(batches) == 5
    numbers = {e.subject: n for n, e in enumerate(examples)}
    for batch in batches:
        drawn = [numbers[draw.example.subject] for draw in batch]
        assert len(set(drawn)) == 4
        for first, second in (drawn[:2], drawn[2:]):
            assert second in likes[first]


def test_a_fact_is_asked_as_others_of_its_relation_are() -> None:
    examples = _examples(4)
    examples[0] = replace(examples[0], rephrases=("Where is Nokia0 at home? In",))
    odd = replace(examples[1], prompt="Lyon is", subject="Lyon", rephrases=("What is it?",))
    borrower, rng = Borrower([*examples, odd]), random.Random(0)
    seen = {borrower.asked(examples[2], rng).rephrases[0] for _ in range(60)}
    assert seen == {"Where is Nokia2 at home? In", "Nokia2 comes from", "The home of Nokia2 is"}
    assert borrower.asked(odd, rng) == odd, "there is no other of its kind"
    (batch,) = Deck(examples, borrowed=1.0).epoch(4, random.Random(0))
    assert all(draw.example.subject in draw.rephrase for draw in batch)


def _draws() -> list[Draw]:
    return [Draw(e, e.rephrases[0], e.locality[0]) for e in _examples(4)]


def test_other_keys_of_the_same_subject_are_no_wrong_candidates(llama: CausalLM) -> None:
    model = make_lane_model(llama)
    pooled = Pooled.of(model.encoder, _draws())
    rows = torch.tensor([0, 1, 2, 3, 0])  # the last is the first one's own key again
    found = scope_losses(model, pooled, rows, 1, TINY, SCALE)
    alone = scope_losses(model, pooled, rows[:4], 1, TINY, SCALE)
    strangers = replace(
        pooled,
        **{
            name: getattr(pooled, name)[rows]
            for name in ("statements", "prompts", "rephrases", "outside")
        },
        subjects=torch.arange(5),
    )
    hit = scope_losses(model, strangers, torch.arange(5), 1, TINY, SCALE)
    torch.testing.assert_close(found["neighbour"], alone["neighbour"])
    assert hit["neighbour"] > found["neighbour"]
    assert hit["outside"] > alone["outside"], "more keys, more that may claim wrongly"


def test_the_scope_stage_leaves_the_encoder(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={
            "stages": "apart", "retriever_share": 0.25, "scope_share": 0.5, "max_steps": 8,
            "evaluate_every": 8, "candidates": 16,
        }
    )  # fmt: skip
    trainer = _trainer(llama, tmp_path / "out", config)
    states: dict[int, dict[str, torch.Tensor]] = {}

    def note(stand: Progress) -> None:
        states[stand.step] = {n: t.clone() for n, t in trainer.model.state_dict().items()}

    trainer.run(note)
    for name, before in states[2].items():
        same = torch.equal(before, states[5][name])
        learns = name.startswith(("key_mlp", "query_mlp", "sentinel"))
        assert same is not learns, name
    rows = list(csv.DictReader((tmp_path / "out/training.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [2, 6, 8], "each stage ends with a validation"


def test_the_paper_asks_both_questions_of_both_losses_and_the_code_tosses(
    llama: CausalLM,
) -> None:
    model = make_lane_model(llama)
    both = [losses(model, llama, _draws(), TINY, SCALE) for _ in range(2)]
    assert both[0]["neighbour"] == both[1]["neighbour"]
    coin = TINY.model_copy(update={"sides": "coin"})
    torch.manual_seed(0)
    tossed = {float(losses(model, llama, _draws(), coin, SCALE)["neighbour"]) for _ in range(8)}
    assert len(tossed) > 1
    larger = losses(model, llama, _draws(), TINY, 2 * SCALE)["neighbour"]
    assert larger != both[0]["neighbour"]


def test_a_loss_without_weight_is_not_computed(llama: CausalLM) -> None:
    free = TINY.model_copy(update={"locality_weight": 0.0})
    found = losses(make_lane_model(llama), llama, _draws(), free, SCALE)
    assert found.keys() == set(LOSSES) - {"locality"}


def test_answers_are_asked_in_parts_of_like_length_and_count_as_if_together(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lane_model(llama)
    config = TINY.model_copy(update={"own_prompt_every": 2})
    together = losses(model, llama, _draws(), config, SCALE, "prompts")
    monkeypatch.setattr(objective, "_ROWS_AT_ONCE", 1)
    apart = losses(model, llama, _draws(), config, SCALE, "prompts")
    torch.testing.assert_close(apart, together)
    every = config.model_copy(update={"own_prompt_every": 1})
    of_all = losses(model, llama, _draws(), every, SCALE, "prompts")
    torch.testing.assert_close(of_all["generality"], together["generality"])
    assert of_all["reliability"] != together["reliability"]


def test_training_starts_from_a_retriever_that_ranks_by_similarity(llama: CausalLM) -> None:
    facts = [replace(example, rephrases=(f"{example.prompt} the",)) for example in _examples(24)]
    torch.manual_seed(0)
    model = make_lane_model(llama).requires_grad_(True)

    def found() -> float:
        with torch.no_grad():
            keys = model.keys([f"{e.prompt} {e.target}" for e in facts])
            queries = model.queries([e.rephrases[0] for e in facts])
        best = (queries @ keys.T).argmax(dim=1)
        return float((best == torch.arange(len(facts))).float().mean())

    assert found() < 0.1, "random MLPs find by chance"
    scale = start_retriever(model, facts)
    start_prompts(model)
    assert found() > 0.25, "a random encoder with names that differ in a digit leaves a trace"
    norms = model.keys([f"{e.prompt} {e.target}" for e in facts]).square().sum(-1).mean()
    assert scale == pytest.approx(20 / norms.item(), rel=0.5)
    targets = model.target_embeddings(llama, [(e.prompt, e.target) for e in facts])
    prompts = model.prompts(model.keys([e.prompt for e in facts]), targets)
    cosines = torch.cosine_similarity(prompts[:, 0, 0], targets[:, 0], dim=-1)
    assert float(cosines.detach().mean()) > 0.8, "prompts start as copies of the target"


def test_validation_counts_claims_and_answers_as_they_are_served(llama: CausalLM) -> None:
    model = make_lane_model(llama)
    examples = _examples(6)
    with torch.no_grad():
        model.key_mlp.first.bias.zero_()
        silent = validate(model, llama, examples, torch.zeros(0, D_R))
        queries = model.queries([e.prompt for e in examples])
        crowd = 1e6 * queries.mean(0, keepdim=True)  # wins every query
        crowded = validate(model, llama, examples, crowd)
    assert 0 <= silent.claimed_right <= 1
    assert crowded.claimed_right == 0
    assert crowded.claimed_wrongly == 1
    assert crowded.with_own_prompt == silent.with_own_prompt
    assert replace(silent, locality=0.0).score == 0
    assert replace(silent, reliability=1.0, generality=0.5, locality=1.0).score == pytest.approx(
        0.75
    )


def test_calibration_balances_claims_and_deferrals(llama: CausalLM) -> None:
    model, examples = make_lane_model(llama), _examples(8)
    nothing = torch.zeros(0, D_R)
    start_retriever(model, examples)
    before = model.sentinel_key()
    model.calibration.fill_(calibrated(model, examples, nothing))
    torch.testing.assert_close(model.sentinel_key(), model.calibration * before)

    def balance(factor: float) -> float:
        model.calibration.fill_(factor)
        return validate(model, llama, examples, nothing).retriever_score

    best = float(model.calibration)
    found = {n / 40: balance(n / 40) for n in range(20, 61)}
    assert found[best] == pytest.approx(max(found.values()), abs=1e-6)
    assert len({round(score, 6) for score in found.values()}) > 1, "else this shows nothing"


def test_made_up_answers_are_words_that_occur_often() -> None:
    examples, rng = _examples(), random.Random(0)
    answerer = Answerer(examples)
    made = {answerer.answered(examples[0], rng).target for _ in range(200)}
    assert {"town", "founded"} <= made
    assert "Nokia3" not in made, "occurs once, and is no word"
    told = answerer.answered(examples[0], rng)
    assert replace(told, target=examples[0].target) == examples[0], "nothing else changes"
    drawn = [d for batch in Deck(examples, answered=1.0).epoch(4, rng) for d in batch]
    assert {draw.example.target for draw in drawn} - {e.target for e in examples}


def test_rephrasings_are_those_of_other_facts() -> None:
    examples, rng = _examples(), random.Random(0)
    frames, first = frames_of(examples), examples[0]
    told = frames.rephrases(first.prompt, first.subject, 5, rng, ("Nokia0 comes from",))
    assert told == ("The home of Nokia0 is",)
    assert frames.rephrases(first.prompt, first.subject, 5, rng, first.rephrases) == ()
    assert frames.rephrases("Where is home?", first.subject, 5, rng) == (), "names no subject"


def test_frames_are_drawn_by_how_often_they_were_met_and_travel_as_they_are() -> None:
    met = {"Nobody knows \0 but": 1, "\0 comes from": 50}
    frames = Frames.of_json(Frames({"\0 is from": met}).to_json())
    assert frames == Frames({"\0 is from": met})
    drawn = Counter(
        frames.rephrases("Lyon is from", "Lyon", 1, random.Random(n))[0] for n in range(200)
    )
    assert drawn["Lyon comes from"] > 180
    assert len(frames.rephrases("Lyon is from", "Lyon", 5, random.Random(0))) == 2
    for broken in ("[]", '{"a": {"b": 0}}', '{"a": []}'):
        with pytest.raises(ValueError, match="frames"):
            Frames.of_json(broken)


@pytest.mark.parametrize("stages", ["joint", "apart"])
def test_what_training_leaves_is_calibrated(
    llama: CausalLM, tmp_path: Path, stages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "calibrated", lambda model, *_: 0.75 * float(model.calibration))
    for wanted, factor in ((True, 0.75), (False, 1)):
        config = TINY.model_copy(update={"stages": stages, "calibrate": wanted, "max_steps": 3})
        trainer = _trainer(llama, tmp_path / str(wanted), config)
        for _ in range(2):  # a training that is over stays as it is
            trainer.run()
            left = LaneModel.load(tmp_path / str(wanted), llama)
            assert float(left.calibration) == float(trainer.model.calibration) == factor


def test_presets_are_settings_of_the_one_configuration() -> None:
    paper, code = (TrainingConfig.model_validate(PRESETS[name]) for name in ("paper", "code"))
    assert (paper.d_r, paper.batch, paper.learning_rate, paper.max_steps) == (
        4096,
        8,
        1e-5,
        150_000,
    )
    assert (paper.hinge, paper.scale, paper.sides, paper.alike) == (None, "one", "both", 1)
    assert (paper.num_target, paper.invented, paper.start) == (0, 0.0, "random")
    assert (paper.stages, paper.locality_weight, paper.dropout) == ("joint", 1.0, True)
    assert (code.hinge, code.scale, code.sides, code.placement) == (
        1.2,
        "sqrt",
        "coin",
        "before_bos",
    )
