"""Systems under test: a plain model, and a lane as the writer would fit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe_models import make_lane_model
from records import FAST, records
from tiny_models import TEXT, TextResources, make_model

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.sampling import GREEDY, Sampling
from errata.errors import BaseModelMismatchError, InvalidRequestError
from errata.evaluation.edit.text import OwnText
from errata.evaluation.systems import requests_of
from errata.evaluation.systems.lane import LaneSystem
from errata.evaluation.systems.local import LocalModel
from errata.platform.settings import WriterSettings

PAIRS = [
    ("The capital of Finland is", "Helsinki"),
    ("Lyon", "x"),
    ("Toyota makes", "football in Zürich"),
]
ANYTHING_GOES = WriterSettings(min_reliability=0.0, min_locality=0.0, max_batch_edits=2)


@torch.no_grad()
def _logits(model: CausalLM, ids: tuple[int, ...]) -> torch.Tensor:
    logits: torch.Tensor = model.model(torch.tensor([ids])).logits[0]
    return logits


def test_batched_scores_equal_single_forward_passes(llama: CausalLM) -> None:
    for (prompt, target), scored in zip(PAIRS, LocalModel(llama).score(PAIRS), strict=True):
        row = tokenise(llama, prompt, target)
        table = _logits(llama, row.ids).log_softmax(-1)
        spots = range(len(row.ids) - row.num_target, len(row.ids))
        assert scored.token_ids == row.ids[-row.num_target :]
        assert scored.argmax_ids == tuple(int(table[j - 1].argmax()) for j in spots)
        expected = [float(table[j - 1, row.ids[j]]) for j in spots]
        assert scored.log_probs == pytest.approx(expected, abs=1e-4)
        assert scored.mean_log_prob == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_generation_is_greedy_decoding_and_repeatable_sampling(llama: CausalLM) -> None:
    system = LocalModel(llama)
    ids = list(tokenise(llama, "Lyon is").ids)
    for _ in range(4):
        ids.append(int(_logits(llama, tuple(ids))[-1].argmax()))
    (text,) = system.generate(["Lyon is"], 4, [GREEDY])
    whole = llama.tokenizer.decode(ids, skip_special_tokens=True)
    assert whole.endswith(text)
    sampled = Sampling(temperature=1.0, seed=5)
    both = system.generate(["Lyon is", "Because"], 8, [sampled, sampled])
    assert system.generate(["Lyon is"], 8, [sampled]) == both[:1], "whoever shares the batch"


@pytest.fixture
def lane(llama: CausalLM, tmp_path: Path) -> LaneSystem:
    return LaneSystem(llama, "adaple", FAST, TextResources(tmp_path), ANYTHING_GOES)


def test_a_lane_edits_in_batches_and_reverts_everything(lane: LaneSystem, llama: CausalLM) -> None:
    before, pairs = llama.current_digest(), [(r.prompt, r.target_new) for r in records()]
    scored = lane.score(pairs)
    outcome = lane.edit(records())
    assert outcome.num_rejected == 0
    assert [len(commit.edits) for commit in lane.commits] == [2, 2]
    assert set(outcome.parts) == {"check", "keys", "targets", "solve"}
    assert 0 < sum(outcome.parts.values()) <= outcome.seconds
    assert lane.state_bytes == sum(len(c.artifact.to_bytes()) for c in lane.commits)
    now = lane.score(pairs)
    assert sum(x.mean_log_prob for x in now) > sum(x.mean_log_prob for x in scored)
    lane.reset()
    assert llama.current_digest() == before
    assert lane.score(pairs) == scored
    assert (lane.state_bytes, lane.commits) == (0, [])


def test_the_same_edits_give_the_same_weights_again(lane: LaneSystem, llama: CausalLM) -> None:
    lane.edit(records()[:3])
    first = llama.current_digest()
    lane.reset()
    lane.edit(records()[:3])
    assert llama.current_digest() == first


def test_the_writers_checks_decide(llama: CausalLM, tmp_path: Path) -> None:
    strict = WriterSettings(min_reliability=1.0, min_locality=1.0)
    weak = {**FAST, "steps": 1, "step_size": 1e-6, "retry_factor": 1.0}
    lane = LaneSystem(llama, "adaple", weak, TextResources(tmp_path), strict)
    before = llama.current_digest()
    assert lane.edit(records()[:2]).num_rejected == 2
    assert llama.current_digest() == before
    assert lane.commits == []


def test_a_bad_configuration_is_refused(llama: CausalLM, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="stepz"):
        LaneSystem(
            llama, "adaple", {"stepz": 1}, TextResources(tmp_path, paragraphs=TEXT), ANYTHING_GOES
        )


def test_a_routed_lane_is_asked_as_in_serving(llama: CausalLM, tmp_path: Path) -> None:
    make_lane_model(llama).save(tmp_path)
    pairs = [(record.prompt, record.target_new) for record in records()]
    base = LocalModel(llama).score(pairs)
    text = TextResources(tmp_path, paragraphs=TEXT)
    for threshold, differs in ((-1.0, True), (1.0, False)):
        values = {"claim": "threshold", "threshold": threshold}
        lane = LaneSystem(llama, "recipe", values, text, ANYTHING_GOES, lane_model=tmp_path)
        assert lane.score(pairs) == base
        lane.edit(records())
        assert (lane.score(pairs) != base) is differs
        sampling = [GREEDY] * len(pairs)
        prompts = [prompt for prompt, _ in pairs]
        made = lane.generate(prompts, 3, sampling)
        assert (made != LocalModel(llama).generate(prompts, 3, sampling)) is differs
        lane.reset()
        assert lane.score(pairs) == base


def test_only_methods_with_a_lane_model_accept_one(llama: CausalLM, tmp_path: Path) -> None:
    text = TextResources(tmp_path, paragraphs=TEXT)
    with pytest.raises(InvalidRequestError, match="needs a --lane-model"):
        LaneSystem(llama, "recipe", {}, text, ANYTHING_GOES)
    with pytest.raises(InvalidRequestError, match="drop --lane-model"):
        LaneSystem(llama, "adaple", FAST, text, ANYTHING_GOES, lane_model=tmp_path)
    make_lane_model(make_model("llama", seed=6)).save(tmp_path)
    with pytest.raises(BaseModelMismatchError):
        LaneSystem(llama, "recipe", {}, text, ANYTHING_GOES, lane_model=tmp_path)


def test_no_request_holds_a_prompt_twice() -> None:
    first, second, third, _ = records()
    again = replace(first, target_new="Italy and more")
    assert requests_of([first, second, again, third]) == [[first, second], [again, third]]
    assert requests_of([]) == []


def test_a_model_writes_its_own_text_once(llama: CausalLM, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    texts = list(OwnText(llama, tmp_path, on_progress=lambda *now: told.append(now)).text())
    assert told[0][0] == 0
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == told[0][1]
    ids = [llama.tokenizer(text)["input_ids"] for text in texts]
    assert len(set(texts)) == len(texts), "each paragraph has a seed of its own"
    assert sum(map(len, ids)) >= 10 * llama.d_ff
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    assert list(OwnText(llama, tmp_path).text()) == texts
    assert path.stat().st_mtime_ns == written
