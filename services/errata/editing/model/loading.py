"""Loads a Hugging Face causal LM; errors state what is wrong with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from errata.editing.model.families import SUPPORTED, attention_window, family_of
from errata.errors import InvalidRequestError, ModelNotFoundError, UnsupportedModelError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_ONLY = (
    "Only decoder-only models that predict the next token can be edited; supported are "
    f"{', '.join(SUPPORTED)}."
)

# Fields of a generation config that Errata reads, or that do not affect answers.
_READ_GENERATION_FIELDS = frozenset(
    {"bos_token_id", "cache_implementation", "eos_token_id", "output_attentions"}
    | {"output_hidden_states", "output_scores", "pad_token_id", "return_dict_in_generate"}
    | {"transformers_version", "trust_remote_code", "use_cache"}
)
# Values of these fields that have no effect.
_NEUTRAL_GENERATION_VALUES = {
    "do_sample": False,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
}


def load_model(source: str | Path, *, dtype: str, device: str) -> tuple[nn.Module, Any]:
    """Loads weights and tokenizer of a causal LM; the model is in eval mode and frozen.

    Args:
        source: a folder, or a Hugging Face hub id.
        dtype: a name in `DTYPES`.
        device: a torch device.

    Returns:
        Model and fast tokenizer.

    Raises:
        ModelNotFoundError: neither a folder with a `config.json` nor a known hub id.
        UnsupportedModelError: not a causal LM, weights missing or not finite, no fast tokenizer.
        InvalidRequestError: unknown dtype or device.
    """
    if dtype not in DTYPES:
        raise InvalidRequestError(
            f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}.", field="dtype"
        )
    check_device(device)
    name = str(source)
    _check_folder(name)
    _read_config(name)
    model = _load_weights(name, DTYPES[dtype])
    tokenizer = _load_tokenizer(name)
    # Some releases of transformers leave `to` untyped, others do not.
    model = model.to(device).eval()  # type: ignore[no-untyped-call,unused-ignore]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, tokenizer


def check_model(source: str | Path, *, device: str) -> dict[str, Any]:
    """Checks a model without reading its weights.

    Args:
        source: a folder, or a Hugging Face hub id.
        device: a torch device.

    Returns:
        The settings of its generation config that Errata ignores (`unread_generation_config`).

    Raises:
        ModelNotFoundError: neither a folder with a `config.json` nor a known hub id.
        UnsupportedModelError: of no family that can be edited, without a fast tokenizer, or with
            the tokenizer of another model.
        InvalidRequestError: unknown device.
    """
    name = str(source)
    check_device(device)
    _check_folder(name)
    model = meta_model(_read_config(name), name, torch.float32)
    family_of(model)
    attention_window(model)
    check_tokenizer(_load_tokenizer(name), len(model.get_input_embeddings().weight))
    try:
        return unread_generation_config(GenerationConfig.from_pretrained(name))
    except OSError:  # the file is optional
        return {}
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"the generation_config.json of {name} cannot be read ({_first_line(error)}). "
            "Correct it, or remove it.",
            model=name,
        ) from error


def read_config(source: str | Path) -> Any:
    """The configuration of a model, of which nothing else need exist.

    Args:
        source: a model folder, a file such as `config.json`, or a Hugging Face hub id.

    Raises:
        ModelNotFoundError: there is nothing of this name.
        UnsupportedModelError: the configuration cannot be read.
    """
    name = str(source)
    path = Path(name).expanduser()
    if path.is_file():
        try:
            return AutoConfig.from_pretrained(str(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnsupportedModelError(
                f"{name} cannot be read as a configuration ({_first_line(error)}). Copy the "
                "model's config.json again.",
                model=name,
            ) from error
    if path.suffix == ".json":
        raise ModelNotFoundError(
            f"there is no file {name}; give a model's config.json, its folder or its hub id.",
            model=name,
        )
    _check_folder(name)
    return _read_config(name)


def meta_model(config: Any, name: str, dtype: torch.dtype) -> Any:
    """A causal LM of a configuration, with shapes and dtypes but without memory for weights.

    Args:
        config: of Hugging Face.
        name: of the model, for messages.
        dtype: of the weights.

    Raises:
        UnsupportedModelError: the configuration describes no causal LM.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # ValueError, ImportError, and errors of a model's own code
        raise UnsupportedModelError(
            f"the config.json of {name} describes no causal language model ({_first_line(error)}). "
            f"{_ONLY}",
            model=name,
        ) from error


def check_device(device: str) -> None:
    """Checks that a device is available.

    Raises:
        InvalidRequestError: it is not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidRequestError(
            f"device {device!r} cannot be used here ({_first_line(error)}); use 'cpu'.",
            field="device",
        ) from error


def _check_folder(name: str) -> None:
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"{name} has no config.json; use a folder written by `save_pretrained`.",
                model=name,
            )
        return
    # A hub id is `name` or `owner/name`; everything else is a path.
    if path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ModelNotFoundError(
            f"{name} is not a folder; use a model folder or a Hugging Face hub id.", model=name
        )


def _read_config(name: str) -> Any:
    try:
        return AutoConfig.from_pretrained(name)
    except OSError as error:
        raise ModelNotFoundError(
            f"no model {name!r}: no such folder, and the hub cannot provide it "
            f"({_first_line(error)}). Check the path, the spelling or the network.",
            model=name,
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModelError(
            f"the config.json of {name} cannot be read ({_first_line(error)}). "
            "Copy the model again, or update transformers if it is newer than this installation.",
            model=name,
        ) from error


def _load_weights(name: str, dtype: torch.dtype) -> nn.Module:
    auto: Any = AutoModelForCausalLM
    try:
        model, info = auto.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except ValueError as error:
        raise UnsupportedModelError(
            f"{name} is not a causal language model ({_first_line(error)}). {_ONLY}",
            model=name,
        ) from error
    except Exception as error:  # transformers and safetensors raise many unrelated types
        raise UnsupportedModelError(
            f"the weights of {name} cannot be read ({type(error).__name__}: "
            f"{_first_line(error)}). Copy the model again.",
            model=name,
        ) from error
    # transformers fills missing weights with random numbers and only warns.
    lost = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if lost:
        raise UnsupportedModelError(
            f"the weights of {name} lack {len(lost)} tensors of the right shape, first {lost[0]}. "
            "Use a complete causal LM checkpoint.",
            model=name,
            first=lost[0],
        )
    for key, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise UnsupportedModelError(
                f"weight {key} of {name} contains NaN or infinity. Copy the model again.",
                model=name,
                first=key,
            )
    loaded: nn.Module = model
    return loaded


def _load_tokenizer(name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # as above: OSError, ValueError, KeyError, library errors
        raise UnsupportedModelError(
            f"{name} has no usable tokenizer ({_first_line(error)}). "
            "Save the tokenizer beside the model.",
            model=name,
        ) from error
    if not tokenizer.is_fast or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UnsupportedModelError(
            f"the tokenizer of {name} gives no character offsets or has no vocabulary. "
            "Save a fast tokenizer (tokenizer.json) beside the model.",
            model=name,
        )
    return tokenizer


def check_tokenizer(tokenizer: Any, num_embeddings: int) -> None:
    """Refuses a tokenizer whose ordinary tokens, or start of text, have no embedding.

    Added tokens without an embedding (often a pad token) are allowed: only a text that writes them
    out contains them, and such a text is refused.

    Raises:
        UnsupportedModelError: the tokenizer is not the model's.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added = tokenizer.get_added_vocab()
    strange = {token for token, number in vocabulary.items() if number >= num_embeddings}
    in_front = {token for token in tokenizer("")["input_ids"] if token >= num_embeddings}
    lost = sorted(strange - added.keys()) or tokenizer.convert_ids_to_tokens(sorted(in_front))
    if lost:
        raise UnsupportedModelError(
            f"{len(lost):,} tokens of the tokenizer, first {lost[0]!r}, have no row among the "
            f"model's {num_embeddings:,} embeddings. Save the model's own tokenizer beside it, or "
            "resize the embeddings and train them.",
            first=lost[0],
        )


def unread_generation_config(config: GenerationConfig | None) -> dict[str, Any]:
    """The settings of a model's generation config that Errata ignores, by field.

    Errata reads the end-of-text tokens. Unless a request says otherwise, it decodes greedily. It
    changes no logits: penalties, suppressed tokens, default sampling and lengths are not applied.
    """
    values: dict[str, Any] = {} if config is None else config.to_diff_dict()
    return {
        name: value
        for name, value in sorted(values.items())
        if name not in _READ_GENERATION_FIELDS
        and not name.startswith("_")
        and _NEUTRAL_GENERATION_VALUES.get(name) != value
    }


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
