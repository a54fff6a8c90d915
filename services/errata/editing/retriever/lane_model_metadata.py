"""The metadata of a lane model's artifact: architecture, tokenizer, frames, base model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.heads import LaneModelShape
from errata.errors import ArtifactCorruptError, BaseModelMismatchError

_KIND = "recipe-lane-model"
GATE_KIND = "errata-gate"


def describe(encoder: Encoder, shape: LaneModelShape, base_model: str) -> dict[str, str]:
    """The metadata from which `build` reconstructs a lane model, without `describe_texts`."""
    return {
        "kind": _KIND,
        "base_model": base_model,
        "encoder": encoder_config(encoder),
        "tokenizer": encoder.tokenizer.to_str(),
        "shape": json.dumps(
            {name: getattr(shape, name) for name in LaneModelShape.__slots__}, sort_keys=True
        ),
    }


def describe_texts(frames: Frames, learned: Collection[str]) -> dict[str, str]:
    """The metadata about the texts of a gate's or lane model's training."""
    return {"frames": frames.to_json(), "wordings": json.dumps(sorted(learned))}


def texts_in(metadata: Mapping[str, str]) -> tuple[Frames, frozenset[str]]:
    """Reads the result of `describe_texts`; older files have no wordings.

    Raises:
        KeyError, ValueError: the metadata have another form.
    """
    learned = json.loads(metadata.get("wordings", "[]"))
    if not isinstance(learned, list) or not all(isinstance(text, str) for text in learned):
        raise ValueError("wordings are not a list of texts")
    return Frames.of_json(metadata["frames"]), frozenset(learned)


def encoder_config(encoder: Encoder) -> str:
    """The architecture of an encoder, as JSON."""
    config: dict[str, Any] = encoder.model.config.to_diff_dict()
    return json.dumps({**config, "model_type": encoder.model.config.model_type}, sort_keys=True)


def build(
    metadata: Mapping[str, str],
) -> tuple[Encoder, LaneModelShape, str, Frames, frozenset[str]]:
    """The arguments of `LaneModel`; the encoder's weights must still be loaded.

    Raises:
        KeyError, TypeError, ValueError: the metadata do not describe a lane model.
    """
    numbers = json.loads(metadata["shape"])
    shape = LaneModelShape(**{**numbers, "deep": tuple(numbers["deep"])})
    config = json.loads(metadata["encoder"])
    encoder = Encoder.from_config(config, metadata["tokenizer"], shape.max_tokens)
    return encoder, shape, metadata["base_model"], *texts_in(metadata)


def check_origin(metadata: Mapping[str, str], llm: BaseLLM) -> None:
    """Checks that an artifact is a lane model that was trained for this LLM.

    Raises:
        ArtifactCorruptError: the artifact is not a lane model.
        BaseModelMismatchError: the lane model was trained for another LLM.
    """
    if metadata.get("kind") == GATE_KIND:
        raise ArtifactCorruptError(
            "the artifact is a gate, which makes no continuous prompts; train a lane model from it "
            "with `errata train recipe --gate`."
        )
    if metadata.get("kind") != _KIND:
        raise ArtifactCorruptError("the artifact is not a RECIPE lane model.")
    digest = metadata.get("base_model", "")
    if digest != llm.digest:
        raise BaseModelMismatchError(
            f"the lane model was trained for base model {digest[:16]}…, this process runs "
            f"{llm.digest[:16]}…; train one for this model with `errata train recipe`.",
            expected=digest,
            found=llm.digest,
        )


def check_fits(shape: LaneModelShape, llm: BaseLLM) -> None:
    """Checks that the continuous prompts fit the LLM, if the LLM is loaded.

    Raises:
        BaseModelMismatchError: the prompts have another width, or belong to missing layers.
    """
    if not isinstance(llm, CausalLM):
        return
    if shape.d != llm.d or max(shape.deep, default=0) >= llm.num_layers:
        raise BaseModelMismatchError(
            f"the lane model makes prompts of width {shape.d} for layers {list(shape.deep)}, the "
            f"LLM has width {llm.d} and {llm.num_layers} layers; train one for this LLM."
        )
