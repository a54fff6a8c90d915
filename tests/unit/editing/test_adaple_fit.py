"""Fit and lane state: edits have an effect, fits do not change the model, replicas agree."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.memory import AdapleMemory
from errata.editing.adaple.state import AdapleState
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.commits import Commit, Reversal
from errata.editing.lane.contract import FitResult
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.weights import EditedWeights
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    EditNotRevertibleError,
    InvalidEditError,
    SingularCovarianceError,
)
from tests.unit.editing.lanes import adaple_bench
from tests.unit.editing.tiny_models import (
    FAMILIES,
    TextResources,
    make_batch,
    make_model,
    weights_of,
)

CONFIG = AdapleConfig(
    layers=(1, 2), num_prefixes=1, prefix_tokens=3, steps=40, clamp=6.0, step_size=0.3, gain=20.0
)


def _fit(
    model: CausalLM,
    resources: TextResources,
    config: AdapleConfig = CONFIG,
    batch: EditBatch | None = None,
    memory: AdapleMemory | None = None,
) -> FitResult:
    batch = make_batch() if batch is None else batch
    lane = adaple_bench(model, config, resources).lane
    if memory is not None:
        lane.memory.value = memory
    return lane.fit(batch)


def _state(model: CausalLM, config: AdapleConfig = CONFIG) -> AdapleState:
    return AdapleState(model, config, EditedWeights(model), "lane")


def _commit(artifact: Artifact, seq: int = 1) -> Commit:
    names = tuple(f"edits/{seq}-{i}" for i in range(artifact.tensors["gains"].shape[1]))
    return Commit(seq, names, artifact)


@torch.no_grad()
def _nll(model: CausalLM, batch: EditBatch) -> list[float]:
    losses = []
    for edit in batch.edits:
        row = tokenise(model, edit.prompt, edit.target)
        scores = model.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        positions = range(len(row.ids) - row.num_target, len(row.ids))
        losses.append(-sum(float(scores[i - 1, row.ids[i]]) for i in positions) / row.num_target)
    return losses


# The subject ends the prompt: a random model's attention carries nothing to a later token.
DIRECT = EditBatch(
    (
        Edit("edits/1-0", "The mother tongue of Danielle Darrieux", "x", "Danielle Darrieux"),
        Edit("edits/1-1", "Phones were made in the town of Nokia", "y", "Nokia"),
    ),
    seed=1,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_commit_makes_the_targets_likely(family: str, resources: TextResources) -> None:
    model = make_model(family)
    before = _nll(model, DIRECT)
    result = _fit(model, resources, batch=DIRECT)
    _state(model).prepare_commit(_commit(result.artifact)).apply()
    after = _nll(model, DIRECT)
    assert all(b < a - 1.0 for a, b in zip(before, after, strict=True)), (before, after)


@pytest.mark.parametrize(
    "values",
    [
        {"variant": "printed"},
        {"variant": "eq3", "gain": 1.0},
        {"variant": "erase", "beta": 0.5},
        {"target": "hidden"},
        {"target": "hidden", "attention_delta": False},
        {"spread": "linear"},
        {"fusion": "dr", "drop": 0.5},
        {"fusion": "topk", "drop": 0.5},
        {"covariance": "fixed"},
        {"prompt_weight": "uniform", "subject_keys": True, "kl_weight": 0.0},
        {"variant": "equality"},
        {"variant": "nullspace", "null_threshold": 2.0},
        {"optimise": "layers", "variant": "equality"},
        {"optimise": "layers", "variant": "memit", "metric": "euclidean", "kl_weight": 0.0},
    ],
)
def test_every_option_fits_commits_and_reverts(
    values: dict[str, Any], resources: TextResources
) -> None:
    model = make_model("llama")
    plain = _fit(model, resources).artifact
    config = AdapleConfig.model_validate(CONFIG.model_dump() | values)
    result = _fit(model, resources, config)
    state = _state(model, config)
    empty = state.digest()
    state.prepare_commit(_commit(result.artifact)).apply()
    assert state.digest() != empty
    if values != {"covariance": "fixed"}:  # a first batch has nothing to accumulate
        assert result.artifact.to_bytes() != plain.to_bytes()
    state.prepare_reversal(["edits/1-0", "edits/1-1"]).apply()
    assert state.digest() == empty


@pytest.mark.parametrize("optimise", ["top", "layers"])
def test_fit_is_deterministic_in_its_seed(optimise: str, resources: TextResources) -> None:
    model = make_model("llama")
    config = CONFIG.model_copy(update={"drop": 0.5, "optimise": optimise})
    first, again = _fit(model, resources, config), _fit(model, resources, config)
    assert first.artifact.to_bytes() == again.artifact.to_bytes()
    assert first.memory is not None
    assert again.memory is not None
    assert first.memory.to_bytes() == again.memory.to_bytes()
    other = _fit(model, resources, config, replace(make_batch(), seed=2))
    assert other.artifact.tensors["gains"].tolist() != first.artifact.tensors["gains"].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fit_changes_no_bit_of_a_weight(dtype: torch.dtype, resources: TextResources) -> None:
    model = make_model("gpt2")
    model = CausalLM(model.model.to(dtype), model.tokenizer)  # type: ignore[arg-type]
    before = dict(weights_of(model))
    _fit(model, resources)
    assert all(torch.equal(before[name], now) for name, now in weights_of(model))


def test_fit_that_fails_half_way_does_not_change_the_model(
    resources: TextResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = importlib.import_module("errata.editing.adaple.fit")
    model = make_model("llama")
    before = dict(weights_of(model))
    solve: Callable[..., Any] = module.solve
    during: list[bool] = []

    def fail_at_second(*args: Any, **kwargs: Any) -> Any:
        if during:
            during.append(torch.equal(model.down_weight(1), before_layer))
            raise SingularCovarianceError("injected")
        during.append(True)
        return solve(*args, **kwargs)

    before_layer = model.down_weight(1).clone()
    monkeypatch.setattr(module, "solve", fail_at_second)
    with pytest.raises(SingularCovarianceError, match="injected"):
        _fit(model, resources)
    assert during == [True, False]  # the first layer was changed when the fit failed
    assert all(torch.equal(before[name], now) for name, now in weights_of(model))
    hooks = [m for m in model.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_error_names_the_invalid_edit(resources: TextResources) -> None:
    model, batch = make_model("llama"), make_batch()
    bad = replace(batch.edits[1], subject="Paris")
    with pytest.raises(InvalidEditError, match=r"edits\[1\]: subject 'Paris'") as caught:
        _fit(model, resources, batch=replace(batch, edits=(batch.edits[0], bad)))
    assert caught.value.field == "edits[1]"
    blank = replace(batch.edits[0], target="  ")
    with pytest.raises(InvalidEditError, match=r"edits\[0\]"):
        _fit(model, resources, batch=replace(batch, edits=(blank,)))
    with pytest.raises(InvalidEditError, match="at least one"):
        _fit(model, resources, batch=EditBatch((), 1))


def test_accumulated_keys_shape_later_fits_until_they_are_removed(
    resources: TextResources,
) -> None:
    model = make_model("llama")
    config = CONFIG.model_copy(update={"covariance": "accumulate"})
    memory = AdapleMemory(config)
    first = _fit(model, resources, config, memory=memory)
    assert first.memory is not None
    later = make_batch(seed=2, first=2)
    alone = _fit(model, resources, config, later, memory).artifact.to_bytes()
    edits = ("edits/1-0", "edits/1-1")
    memory = memory.after(Commit(1, edits, first.artifact, first.memory))
    assert _fit(model, resources, config, later, memory).artifact.to_bytes() != alone
    memory = memory.after(Reversal(edits))
    assert _fit(model, resources, config, later, memory).artifact.to_bytes() == alone


def _two_commits(
    model: CausalLM, resources: TextResources, config: AdapleConfig = CONFIG
) -> tuple[AdapleState, Commit, Commit]:
    state = _state(model, config)
    first = _commit(_fit(model, resources, config).artifact)
    state.prepare_commit(first).apply()
    second = _commit(_fit(model, resources, config, make_batch(2, 2)).artifact, seq=2)
    state.prepare_commit(second).apply()
    return state, first, second


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_replica_that_reads_the_bytes_agrees(drop: float, resources: TextResources) -> None:
    config = CONFIG.model_copy(update={"drop": drop})
    state, *commits = _two_commits(make_model("gpt2"), resources, config)
    replica = _state(make_model("gpt2"), config)
    for commit in commits:
        sent = Artifact.from_bytes(commit.artifact.to_bytes())
        assert replica.digest() != state.digest()
        replica.prepare_commit(replace(commit, artifact=sent)).apply()
    assert replica.digest() == state.digest()


def test_revert_gives_the_bits_of_the_other_commit(resources: TextResources) -> None:
    state, _, second = _two_commits(make_model("llama"), resources)
    state.prepare_reversal(["edits/1-0", "edits/1-1"]).apply()
    replica = _state(make_model("llama"))
    replica.prepare_commit(second).apply()
    assert state.digest() == replica.digest()
    assert state.directions().names == ("edits/2-1", "edits/2-0")


@pytest.mark.parametrize("fusion", ["none", "dr", "topk"])
def test_reverting_one_edit_removes_only_its_column(fusion: str, resources: TextResources) -> None:
    drop = 0.0 if fusion == "none" else 0.5
    config = AdapleConfig.model_validate(CONFIG.model_dump() | {"fusion": fusion, "drop": drop})
    model = make_model("llama")
    base = model.down_weight(2).clone()
    artifact = _fit(model, resources, config).artifact
    state = _state(model, config)
    state.prepare_commit(_commit(artifact)).apply()
    both = model.down_weight(2) - base
    state.prepare_reversal(["edits/1-0"]).apply()
    left = model.down_weight(2) - base
    expected = torch.outer(
        artifact.tensors["layer.2.left"][:, 1], artifact.tensors["layer.2.right"][:, 1]
    )
    kept = both != 0
    scale = 2.0 if fusion == "dr" else 1.0
    torch.testing.assert_close(left[kept], scale * expected[kept], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(both[kept], left[kept], rtol=1e-2, atol=1e-4)


def test_prepare_changes_nothing(resources: TextResources) -> None:
    model = make_model("llama")
    state = _state(model)
    commit = _commit(_fit(model, resources).artifact)
    empty = state.digest()
    swap = state.prepare_commit(commit)
    assert state.digest() == empty
    assert state.directions().names == ()
    swap.apply()
    full = state.digest()
    assert full != empty
    state.prepare_reversal(["edits/1-0"])
    assert state.digest() == full


def test_revert_of_an_edit_that_is_not_present_is_refused(resources: TextResources) -> None:
    model = make_model("llama")
    state = _state(model)
    state.prepare_commit(_commit(_fit(model, resources).artifact)).apply()
    state.prepare_reversal(["edits/1-0"]).apply()
    before = state.digest()
    for name in ("edits/1-0", "edits/7-0"):
        with pytest.raises(EditNotRevertibleError, match=name):
            state.prepare_reversal(["edits/1-1", name])
    assert state.digest() == before


def test_artifact_that_does_not_fit_is_refused_and_changes_nothing(
    resources: TextResources,
) -> None:
    model = make_model("llama")
    valid = _fit(model, resources).artifact
    state = _state(model)
    empty = state.digest()
    tensors, metadata = valid.tensors, valid.metadata
    nan = tensors["gains"].clone()
    nan[0, 0] = torch.nan
    invalid: list[tuple[Artifact, str]] = [
        (Artifact({**tensors, "extra": nan}, metadata), "unknown"),
        (Artifact({**tensors, "gains": nan}, metadata), "NaN"),
        (Artifact({**tensors, "layer.1.left": tensors["layer.1.left"].T}, metadata), "expected"),
        (Artifact({**tensors, "gains": tensors["gains"].double()}, metadata), "expected"),
        (Artifact({k: v for k, v in tensors.items() if k != "layer.2.left"}, metadata), "lacks"),
        (Artifact(tensors, {**metadata, "drop": "0.9"}), "drop"),
        (Artifact(tensors, {**metadata, "method": "recipe"}), "method"),
        (Artifact(tensors, {**metadata, "seed": "x"}), "seed"),
        (Artifact(tensors, {}), "method"),
    ]
    for artifact, message in invalid:
        with pytest.raises(ArtifactCorruptError, match=message):
            state.prepare_commit(replace(_commit(valid), artifact=artifact))
    with pytest.raises(ArtifactCorruptError, match="expected"):
        state.prepare_commit(Commit(1, ("edits/1-0",), valid))  # one name for two columns
    with pytest.raises(BaseModelMismatchError, match="load the model"):
        _state(make_model("llama", seed=5)).prepare_commit(_commit(valid))
    assert state.digest() == empty
    state.prepare_commit(_commit(valid)).apply()  # control: the valid one is accepted, but once
    with pytest.raises(ArtifactCorruptError, match="already applied"):
        state.prepare_commit(_commit(valid))
