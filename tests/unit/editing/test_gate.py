"""Gates: their file, the lanes that take one, and those that an installed package brings."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from errata import demo
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.lane.commits import LaneModelCommit
from errata.editing.lane.needs import EditLoad
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.shape import ModelShape
from errata.editing.retriever import gate_file
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.installed_gate import installed_gate
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.needs import GateNeeds
from errata.editing.retriever.start import new_lane_model
from errata.editing.retriever.training_config import TrainingConfig
from errata.errors import (
    ArtifactCorruptError,
    InvalidRequestError,
    ModelNotFoundError,
    PreconditionError,
)
from errata.evaluation.systems.lane import LaneSystem
from errata.platform.settings import WriterSettings
from tests.unit.editing import elder_models, lemoe_models
from tests.unit.editing.gates import install_gate, make_gate
from tests.unit.editing.lanes import Bench
from tests.unit.editing.recipe_models import bare_lane, make_lane_model
from tests.unit.editing.tiny_models import TextResources, make_model

ROOT = Path(__file__).parents[3]
TEXTS = ["Toyota makes", "The tower of Pisa is in Italy, as everybody knows", "Nokia"]
GATED = {"scope": "retriever", "threshold": None, "steps": 1}
CPU = torch.device("cpu")


DAMAGES = ("none", "tokenizer", "widths", "no sentinel", "negative", "long", "texts")


def damaged(whole: Mapping[str, str], sizes: str, damage: str) -> dict[str, str]:
    """Metadata of a gate or lane model of which one part is damaged."""
    facts, numbers = dict(whole), json.loads(whole[sizes])
    match damage:
        case "none":
            facts[sizes] = "{}"
        case "tokenizer":
            facts["tokenizer"] = "{"
        case "widths":
            facts["encoder"] = json.dumps({**json.loads(whole["encoder"]), "vocab_size": -3})
        case "no sentinel":
            facts[sizes] = json.dumps({**numbers, "num_sentinel": 0})
        case "negative":
            facts[sizes] = json.dumps({**numbers, "d_r": -4})
        case "long":
            facts[sizes] = json.dumps({**numbers, "max_tokens": 10_000})
        case "texts":
            facts["wordings"] = json.dumps({"is": "in"})
    return facts


def _commit(data: bytes, seq: int = 1) -> LaneModelCommit:
    return LaneModelCommit(seq, Artifact.from_bytes(data), "0" * 64, (), None)


def test_a_gate_is_read_as_it_was_rounded(llama: CausalLM, tmp_path: Path) -> None:
    made = make_gate(llama)
    gate_file.save(made, tmp_path)
    read = gate_file.load(tmp_path, CPU)
    for name, value in made.state_dict().items():
        found = read.state_dict()[name]
        if value.ndim == 2:
            steps = value.abs().amax(1, keepdim=True) / 127
            assert bool(((found - value).abs() <= 0.501 * steps).all())
            assert found.dtype == torch.float32
        else:
            assert torch.equal(found, value)
    again = tmp_path / "again"
    gate_file.save(read, again)
    assert gate_file.load(again, CPU).state_dict().keys() == read.state_dict().keys()
    for name, value in gate_file.load(again, CPU).state_dict().items():
        assert torch.equal(value, read.state_dict()[name]), "a read gate is written as it is"


def test_a_gate_takes_a_byte_for_each_number_of_a_matrix(llama: CausalLM) -> None:
    gate = make_gate(llama)
    artifact = gate_file.to_artifact(gate)
    steps = [t for name, t in artifact.tensors.items() if name.endswith(".steps")]
    assert {t.dtype for t in steps} == {torch.int8}
    assert sum(t.numel() for t in steps) > 0.9 * sum(t.numel() for t in gate.state_dict().values())


def test_the_gate_of_a_lane_model_decides_as_the_lane_model_does(llama: CausalLM) -> None:
    lane_model = make_lane_model(llama)
    artifact = gate_file.to_artifact(lane_model)
    assert "base_model" not in artifact.metadata
    assert not [name for name in artifact.tensors if "prompt" in name]
    gate = gate_file.from_artifact(artifact, CPU)
    with torch.no_grad():
        torch.testing.assert_close(gate.queries(TEXTS), lane_model.queries(TEXTS), atol=0.1, rtol=0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_lane_models_are_refused_with_damaged_metadata(llama: CausalLM, damage: str) -> None:
    whole = make_lane_model(llama).to_artifact()
    facts = damaged(whole.metadata, "shape", damage)
    with pytest.raises(ArtifactCorruptError):
        LaneModel.from_artifact(Artifact(whole.tensors, facts), llama)


@pytest.mark.parametrize("damage", [*DAMAGES, "missing", "surplus", "dtype", "kind"])
def test_a_damaged_gate_is_refused(llama: CausalLM, damage: str) -> None:
    whole = gate_file.to_artifact(make_gate(llama))
    tensors, facts = dict(whole.tensors), dict(whole.metadata)
    match damage:
        case "missing":
            del tensors["sentinel.size"]
        case "surplus":
            tensors["more"] = torch.zeros(1)
        case "dtype":
            tensors["sentinel.steps"] = tensors["sentinel.steps"].float()
        case "kind":
            facts["kind"] = "something"
        case _:
            facts |= damaged(facts, "sizes", damage)
    with pytest.raises(ArtifactCorruptError):
        gate_file.from_artifact(Artifact(tensors, facts), CPU)


@pytest.mark.parametrize("method", ["elder", "lemoe"])
def test_one_gate_serves_lanes_on_different_llms(
    method: str, llama: CausalLM, resources: TextResources
) -> None:
    data = gate_file.to_artifact(make_gate(llama)).to_bytes()
    found = []
    for llm in (llama, make_model("llama", seed=1)):
        bench: Bench[elder_models.ElderLane] | Bench[lemoe_models.LemoeLane]
        if method == "elder":
            elder = elder_models.SMALL.model_copy(update=GATED)
            bench = Bench(llm, elder_models.new_lane(llm, elder), resources)
        else:
            lemoe = lemoe_models.SMALL.model_copy(update=GATED)
            bench = Bench(llm, lemoe_models.new_lane(llm, lemoe), resources)
        bench.lane.prepare(_commit(data)).apply()
        bench.edit(*lemoe_models.FACTS)
        view = bench.lane.view()
        found.append(view.claims([*TEXTS, *lemoe_models.OTHERS]))
    assert found[0] == found[1]


def test_a_recipe_lane_says_that_a_gate_makes_no_prompts(llama: CausalLM) -> None:
    gate = make_gate(llama)
    data = gate_file.to_artifact(gate).to_bytes()
    with pytest.raises(ArtifactCorruptError, match="errata train recipe --gate"):
        bare_lane(llama).prepare(_commit(data))
    with pytest.raises(PreconditionError, match="errata train recipe --gate"):
        Gate.of(gate, "0" * 64).lane_model()


def test_a_lane_model_starts_from_a_gate(llama: CausalLM) -> None:
    gate = make_gate(llama)
    config = TrainingConfig(stages="prompts", num_deep=1)
    lane_model = new_lane_model(llama, None, config, gate)
    assert lane_model.base_model == llama.digest
    assert lane_model.shape.gate == gate.sizes
    with torch.no_grad():
        assert torch.equal(lane_model.keys(TEXTS), gate.keys(TEXTS))
        assert torch.equal(lane_model.sentinel_key(), gate.sentinel_key())


def test_a_plan_counts_a_gate(llama: CausalLM, tmp_path: Path) -> None:
    gate = make_gate(llama)
    gate_file.save(gate, tmp_path)
    shape = ModelShape.read(demo.model_path())
    needs = GateNeeds.of(shape, tmp_path)
    assert needs.num_parameters == sum(t.numel() for t in gate.state_dict().values())
    assert needs.store().num_bytes == needs.num_parameters
    assert needs.request(EditLoad(num_edits=7, batch_edits=1))[1].operations == 2 * 7 * 24
    with pytest.raises(ArtifactCorruptError, match="errata train recipe --gate"):
        needs.lane_model()


def test_a_lane_without_lane_model_takes_the_installed_gate(
    llama: CausalLM, resources: TextResources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_system(method: str) -> LaneSystem:
        return LaneSystem(llama, method, {}, resources, WriterSettings())

    with pytest.raises(ModelNotFoundError, match="install the package errata-gate"):
        open_system("lemoe")
    install_gate(make_gate(llama), tmp_path / "site", monkeypatch)
    assert open_system("lemoe").claims(TEXTS) == open_system("elder").claims(TEXTS)
    with pytest.raises(InvalidRequestError, match="needs a --lane-model"):
        open_system("recipe")


def test_which_gate_is_installed_must_be_clear(
    llama: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_gate(make_gate(llama), tmp_path / "one", monkeypatch)
    assert installed_gate() == path
    install_gate(make_gate(llama), tmp_path / "two", monkeypatch, name="another")
    with pytest.raises(InvalidRequestError, match="several gates are installed: another, tiny"):
        installed_gate()


def test_an_installed_gate_without_its_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gate(None, tmp_path, monkeypatch)
    with pytest.raises(ModelNotFoundError, match="install it again"):
        installed_gate()


def test_only_lanes_with_a_learned_scope_take_a_gate() -> None:
    assert LemoeConfig().takes_gate
    assert not LemoeConfig(scope="cosine").takes_gate
    assert elder_models.SMALL.model_copy(update=GATED).takes_gate


def test_the_shipped_gate_knows_other_words_and_leaves_other_questions() -> None:
    path = ROOT / "integrations" / "gate" / "errata_gate" / "gate.safetensors"
    assert path.stat().st_size < 30_000_000
    gate = Gate.of(gate_file.load(path, CPU), "shipped")
    facts = {
        "The headquarters of Harrow Labs is in": ("Leeds", "Harrow Labs is based in which city?"),
        "Mira Voss was born in": ("Ghent", "Where was Mira Voss born?"),
        "The chief executive of Ostrel is": ("Ann Okoye", "Who runs Ostrel as its CEO?"),
        "The river Tamsin flows into": ("the Ebro", "Into which water does the river Tamsin flow?"),
        "Deep Harbour was written by": ("Ivo Lund", "Who is the author of Deep Harbour?"),
    }
    others = (
        "The headquarters of Quill Foods is in",
        "Who is the author of The Glass Orchard?",
        "How do I bake bread without yeast?",
        "Write a poem about the sea.",
        "def fibonacci(n):",
    )
    asked = [question for _, question in facts.values()]
    keys = gate.keys([Edit("", prompt, new, "") for prompt, (new, _) in facts.items()])
    with torch.inference_mode():
        queries = gate.model.queries([*facts, *asked, *others])
    scores, nearest = (queries @ keys.T).max(dim=1)
    claimed = [
        int(edit) if own > limit else None
        for own, edit, limit in zip(scores, nearest, queries @ gate.sentinel, strict=True)
    ]
    numbers = list(range(len(facts)))
    assert claimed == [*numbers, *numbers, *[None] * len(others)]


def test_the_package_names_its_file() -> None:
    source = ROOT / "integrations" / "gate" / "errata_gate" / "__init__.py"
    spec = importlib.util.spec_from_file_location("errata_gate", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.path() == source.parent / "gate.safetensors"
    project = (source.parents[1] / "pyproject.toml").read_text("utf-8")
    assert '[project.entry-points."errata.gates"]\ndefault = "errata_gate:path"' in project
    assert 'errata_gate = ["gate.safetensors"]' in project
