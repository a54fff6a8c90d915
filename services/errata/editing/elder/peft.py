"""Writes an ELDER lane's experts as PEFT adapters, and reads PEFT adapters as experts.

Expert i of all layers is one LoRA adapter: folder `expert-{i}` with `adapter_config.json` and
`adapter_model.safetensors`, which use PEFT's names. PEFT has no place for routers; they are beside
the adapters in `routers.safetensors`. An adapter alone acts as an expert with a gate of 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from errata.editing.elder.experts import Experts, Shape
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_ROUTERS = "routers.safetensors"
_PREFIX = "base_model.model."
_BASE_MODEL = "errata_base_model"  # metadata of exported adapters: the base model's digest
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")  # initialisations


def export(model: CausalLM, experts: Experts, folder: Path, base_model: str) -> list[Path]:
    """Writes N adapters and the routers.

    Args:
        model: that the lane edits; gives the names of the adapted modules.
        experts: of the lane.
        folder: target; created if missing.
        base_model: folder or hub id from which PEFT loads the base model.

    Returns:
        The adapters' folders.

    Raises:
        InvalidRequestError: the folder already holds an adapter.
    """
    shape, folders = experts.shape, []
    names = _module_names(model, shape)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in experts.tensors().items()}
    for number in range(shape.num_experts):
        out = folder / f"expert-{number}"
        if (out / _WEIGHTS).exists():
            raise InvalidRequestError(f"{out} already holds an adapter; choose an empty folder.")
        out.mkdir(parents=True, exist_ok=True)
        weights = {}
        for layer, name in enumerate(names):
            weights[f"{_PREFIX}{name}.lora_A.weight"] = tensors["lora_a"][layer, number]
            weights[f"{_PREFIX}{name}.lora_B.weight"] = tensors["lora_b"][layer, number]
        weights = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(weights, out / _WEIGHTS, metadata={_BASE_MODEL: model.digest})
        config = _config(shape, names, base_model, fan_in_fan_out=_is_transposed(model, shape))
        text = json.dumps(config, indent=2, sort_keys=True)
        (out / _CONFIG).write_text(f"{text}\n", encoding="utf-8")
        folders.append(out)
    routers = {name: tensors[name] for name in ("router_weight", "router_bias")}
    save_file(routers, folder / _ROUTERS)
    return folders


def read(model: CausalLM, shape: Shape, folders: Sequence[Path]) -> dict[str, Tensor]:
    """The LoRAs of N adapters, as `Experts` holds them: `lora_a` and `lora_b`.

    B absorbs each adapter's own α/r, so that a lane with another α/r starts with the same output.

    Args:
        model: that the adapters are for.
        shape: of the lane.
        folders: one per expert.

    Raises:
        InvalidRequestError: the number of adapters is wrong, or an adapter is not a plain LoRA, has
            another rank or other modules, or was exported for another base model; the message
            names the difference.
    """
    if len(folders) != shape.num_experts:
        raise InvalidRequestError(
            f"{len(folders)} adapters were given for {shape.num_experts} experts; give one "
            "per expert, or set num_experts.",
            field="adapters",
        )
    names = _module_names(model, shape)
    sizes = shape.sizes()
    a, b = torch.zeros(sizes["lora_a"]), torch.zeros(sizes["lora_b"])
    for number, folder in enumerate(folders):
        config, weights = _read_one(folder, model.digest)
        scale = _scale(config, folder) / shape.scale
        expected = {
            f"{_PREFIX}{name}.lora_{which}.weight": tuple(sizes[f"lora_{which.lower()}"][2:])
            for name in names
            for which in ("A", "B")
        }
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if found != expected:
            raise InvalidRequestError(
                f"the adapter {folder} does not fit: it has {_first_difference(found, expected)}.",
                field="adapters",
            )
        for layer, name in enumerate(names):
            a[layer, number] = weights[f"{_PREFIX}{name}.lora_A.weight"].float()
            b[layer, number] = scale * weights[f"{_PREFIX}{name}.lora_B.weight"].float()
    return {"lora_a": a, "lora_b": b}


def _config(
    shape: Shape, names: Sequence[str], base_model: str, *, fan_in_fan_out: bool
) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": shape.rank,
        "lora_alpha": shape.scale * shape.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        # Full names, because GPT-2's attention also has a c_proj.
        "target_modules": list(names),
    }


def _module_names(model: CausalLM, shape: Shape) -> list[str]:
    """The names of the adapted projections in the Hugging Face model."""
    name_of = {id(module): name for name, module in model.model.named_modules()}
    if shape.projection == "up" and model.is_fused:
        raise InvalidRequestError(
            "this model computes gate and up in one projection, which PEFT adapts as a whole; use "
            "projection 'down' for adapters.",
            field="config.projection",
        )
    projections = [
        model.down(layer) if shape.projection == "down" else model.up(layer)
        for layer in shape.layers
    ]
    return [name_of[id(module)] for module in projections]


def _is_transposed(model: CausalLM, shape: Shape) -> bool:
    """Whether the projection stores its weight as (d_in, d_out), as GPT-2 does."""
    module = model.down(0) if shape.projection == "down" else model.up(0)
    return isinstance(module, Conv1D)


def _read_one(folder: Path, base_model: str) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / _WEIGHTS, "pt") as file:
            origin = (file.metadata() or {}).get(_BASE_MODEL, base_model)
        weights = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidRequestError(
            f"{folder} holds no PEFT adapter that can be read: {error}.", field="adapters"
        ) from error
    if origin != base_model:
        raise InvalidRequestError(
            f"the adapter {folder} was exported for base model {origin[:16]}…; this base model "
            f"is {base_model[:16]}….",
            field="adapters",
        )
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise InvalidRequestError(
            f"the adapter {folder} is of type {config.get('peft_type')}; a plain LORA is required.",
            field="adapters",
        )
    _refuse_unsupported(config, folder)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise InvalidRequestError(
            f"the adapter {folder} has values that are not finite.", field="adapters"
        )
    return config, weights


def _refuse_unsupported(config: Mapping[str, Any], folder: Path) -> None:
    """Refuses scales of single modules, and initialisations that change the base model."""
    for key in ("alpha_pattern", "rank_pattern"):
        if config.get(key):
            raise InvalidRequestError(
                f"the adapter {folder} has {key}; all modules must share one r and lora_alpha.",
                field="adapters",
            )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        raise InvalidRequestError(
            f"the adapter {folder} was initialised with {init}, which changes the base model; "
            "convert it to a plain LoRA first (PEFT: path_initial_model_for_weight_conversion).",
            field="adapters",
        )


def _scale(config: Mapping[str, Any], folder: Path) -> float:
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"the adapter {folder} has no valid r and lora_alpha.", field="adapters"
        ) from error
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _first_difference(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> str:
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            return f"no {name}, which the lane adapts"
        if name not in expected:
            return f"{name}, which the lane does not adapt"
        if found[name] != expected[name]:
            return f"{name} of shape {found[name]} instead of {expected[name]}"
    raise AssertionError("the tensors do not differ")
