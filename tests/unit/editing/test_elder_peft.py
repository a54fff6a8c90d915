"""ELDER's experts as PEFT adapters: PEFT reads them, and a lane reads adapters that PEFT made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from errata.editing.elder import peft
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Shape
from errata.editing.elder.training import mixing
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.errors import InvalidRequestError
from tests.unit.editing.elder_models import SMALL, Lane, make_experts
from tests.unit.editing.tiny_models import TextResources, make_model

FAMILIES = ("llama", "gpt2")
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    # From PEFT, about tied embeddings, which no adapter here changes.
    "ignore::UserWarning:peft",
)


def _ids(llm: CausalLM) -> torch.Tensor:
    return torch.tensor([tokenise(llm, "Nokia was founded in the town of").ids])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projection", ["down", "up"])
def test_peft_computes_what_an_expert_with_a_gate_of_one_does(
    family: str, projection: str, tmp_path: Path
) -> None:
    llm = make_model(family)
    config = SMALL.model_copy(update={"projection": projection, "alpha": 2.0})
    experts = make_experts(llm, config)
    folders = peft.export(llm, experts, tmp_path, "")
    assert [path.name for path in folders] == [f"expert-{n}" for n in range(4)]
    for number, folder in enumerate(folders):
        gates = torch.zeros(1, len(experts.shape.layers), 4)
        gates[..., number] = 1.0
        with torch.no_grad(), mixing(llm, experts, gates):
            ours = llm.model(input_ids=_ids(llm)).logits
        theirs = PeftModel.from_pretrained(make_model(family).model, str(folder)).eval()
        with torch.no_grad():
            logits = theirs(input_ids=_ids(llm)).logits
        torch.testing.assert_close(logits, ours)
        with torch.no_grad():
            assert not torch.allclose(llm.model(input_ids=_ids(llm)).logits, ours)
    assert (tmp_path / "routers.safetensors").is_file()
    with pytest.raises(InvalidRequestError, match="already holds an adapter"):
        peft.export(llm, experts, tmp_path, "")


@pytest.mark.parametrize("rslora", [False, True])
def test_a_lane_starts_from_adapters_that_peft_made(
    llama: CausalLM, resources: TextResources, tmp_path: Path, rslora: bool
) -> None:
    config = SMALL.model_copy(update={"init": "adapters", "num_experts": 2, "steps": 1})
    shape = Shape.of(llama, config)
    folders = []
    for number in range(2):
        model = get_peft_model(
            make_model("llama").model,
            LoraConfig(
                r=config.rank,
                lora_alpha=8,
                use_rslora=rslora,
                target_modules=["down_proj"],
                layers_to_transform=list(shape.layers),
            ),
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(number))
        model.eval().save_pretrained(str(tmp_path / str(number)))
        folders.append(tmp_path / str(number))
        with torch.no_grad():
            expected = model(input_ids=_ids(llama)).logits
    read = peft.read(llama, shape, folders)
    experts = make_experts(llama, config)
    with torch.no_grad():
        experts.lora_a.copy_(read["lora_a"])
        experts.lora_b.copy_(read["lora_b"])
    gates = torch.zeros(1, 2, 2)
    gates[..., 1] = 1.0
    with torch.no_grad(), mixing(llama, experts, gates):
        torch.testing.assert_close(llama.model(input_ids=_ids(llama)).logits, expected)
    resources.adapters = tuple(folders)
    lane = Lane(llama, config, resources)
    lane.edit(("Toyota makes", "football"))
    learned = lane.lane.contents.learned
    assert learned is not None
    moved = (learned.experts.lora_a - read["lora_a"]).abs().max()
    assert moved < 0.02, "one step of Adam from the adapters"


def test_adapters_that_do_not_fit_are_refused(
    llama: CausalLM, resources: TextResources, tmp_path: Path
) -> None:
    folders = peft.export(llama, make_experts(llama), tmp_path, "")
    shape = Shape.of(llama, SMALL)
    with pytest.raises(InvalidRequestError, match="3 adapters were given for 4 experts"):
        peft.read(llama, shape, folders[:3])
    with pytest.raises(InvalidRequestError, match="no PEFT adapter that can be read"):
        peft.read(llama, shape, [*folders[:3], tmp_path / "nowhere"])
    other = Shape.of(llama, ElderConfig(num_layers=1, num_experts=4, rank=4))
    with pytest.raises(InvalidRequestError, match="which the lane does not adapt"):
        peft.read(llama, other, folders)
    thin = Shape.of(llama, SMALL.model_copy(update={"rank": 3}))
    with pytest.raises(InvalidRequestError, match=r"of shape \(4, 48\) instead of \(3, 48\)"):
        peft.read(llama, thin, folders)
    with pytest.raises(InvalidRequestError, match="exported for base model"):
        peft.read(make_model("llama", seed=5), shape, folders)
    path = folders[0] / "adapter_config.json"
    config = json.loads(path.read_text())
    for wrong, problem in (
        ({**config, "peft_type": "LOHA"}, "is of type LOHA"),
        ({k: v for k, v in config.items() if k != "lora_alpha"}, "has no valid r"),
        ({**config, "alpha_pattern": {"down_proj": 3}}, "has alpha_pattern"),
        ({**config, "init_lora_weights": "pissa_niter_4"}, "changes the base model"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InvalidRequestError, match=problem):
            peft.read(llama, shape, folders)
    path.write_text(json.dumps(config))
    weights = load_file(folders[0] / "adapter_model.safetensors")
    not_finite = {name: tensor / 0.0 for name, tensor in weights.items()}
    save_file(not_finite, folders[0] / "adapter_model.safetensors")
    with pytest.raises(InvalidRequestError, match="not finite"):
        peft.read(llama, shape, folders)


def test_only_the_first_fit_needs_adapters(
    llama: CausalLM, resources: TextResources, tmp_path: Path
) -> None:
    config = SMALL.model_copy(update={"init": "adapters", "steps": 1})
    empty = Lane(llama, config, resources)
    with pytest.raises(InvalidRequestError, match="none are given"):
        empty.edit(("Toyota makes", "football"))
    folders = peft.export(llama, make_experts(llama), tmp_path, "")
    started = Lane(llama, config, TextResources(tmp_path, tuple(folders)))
    started.edit(("Toyota makes", "football"))
    started.lane.gather(resources)
    started.edit(("Nokia made", "football"))
    assert started.lane.report().sizes["edits"] == 2
