"""One view of GPT-2, GPT-J, Llama, Mistral and Qwen: which module is which, weights (d, d_ff)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from errata.editing.artifact import tensor_bytes
from errata.editing.model.families import family_of
from errata.editing.model.loading import check_tokenizer, load_model
from errata.editing.model.self_check import check_forward
from errata.errors import UnsupportedModelError

# Fields of a config that change no number which the model computes.
_VOLATILE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)


SpecialTokens = Literal["text", "parse"]
"""What a control token written out in a prompt is: mere text, or the control token."""


class BaseLLM(Protocol):
    """What a lane that routes needs to know of the LLM; not its weights."""

    @property
    def digest(self) -> str:
        """SHA-256, hex, of config and weights without any edit."""

    @property
    def device(self) -> torch.device:
        """Where tensors shall lie."""


@dataclass(frozen=True, slots=True)
class KnownLLM:
    """An LLM by name only."""

    digest: str
    device: torch.device


class CausalLM:
    """A causal language model and its tokenizer, with every part under one name.

    Attributes:
        model: the Hugging Face model, frozen and in eval mode.
        tokenizer: its fast tokenizer, unchanged.
        body: the decoder without head; called as `body(input_ids, attention_mask=…)`.
        blocks: the transformer blocks in order.
        norm: the final norm.
        head: hidden (…, d) → logits (…, vocabulary).
        embeddings: token embeddings, (num_embeddings, d).
        num_embeddings: token ids that the model has.
        end_ids: tokens that end a text.
        special_tokens: what a control token written out in a prompt is.
        num_layers: number of blocks.
        d: width.
        d_ff: width of the FFN's intermediate.
        max_positions: longest sequence the model takes.
        plan_hooks: `PlanHooks` keeps the model's own here, so that they last as long; no part of
            the model itself uses them.
        digest: SHA-256, hex, of config and weights as they were when the view was made, that is
            of the base model: make the view before the first edit.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, special_tokens: SpecialTokens = "text"
    ) -> None:
        """Views a loaded model.

        Args:
            model: a Hugging Face causal LM.
            tokenizer: its fast tokenizer.
            special_tokens: `text`: nobody can write a token into a prompt that the tokenizer marks
                as special; `parse`: it is read as one, and a prompt may bring its own start of
                text. Added tokens without the mark are tokens in either case.

        Raises:
            UnsupportedModelError: the modules or shapes fit no known family, the tokenizer has
                tokens that the model lacks, or the parts compute something else than the whole.
        """
        family = family_of(model)
        hf: Any = model
        self.model = model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.tokenizer = tokenizer
        self.body: nn.Module = model.get_submodule(family.body)
        self.blocks: list[nn.Module] = list(self.body.get_submodule(family.blocks).children())
        self.norm: nn.Module = self.body.get_submodule(family.norm)
        self.embeddings: nn.Module = self.body.get_submodule(family.embeddings)
        self.head: nn.Module = hf.get_output_embeddings()
        if self.head is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no language-model head. Load a causal LM.",
                model_class=type(model).__name__,
            )
        self.num_embeddings = int(self.embeddings.get_parameter("weight").shape[0])
        self.special_tokens = special_tokens
        self.end_ids = self._find_end_ids()
        self._family = family
        self.num_layers = len(self.blocks)
        self.d = int(hf.config.hidden_size)
        self.max_positions = int(hf.config.max_position_embeddings)
        self._window, self._mixed_layers = _attention_window(hf.config)
        self.d_ff = int(self.down_weight(0).shape[1])
        self._check_layers()
        self.plan_hooks: object | None = None
        check_tokenizer(tokenizer, self.num_embeddings)
        check_forward(self)
        self.digest: str = self.current_digest()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        special_tokens: SpecialTokens = "text",
    ) -> CausalLM:
        """Loads a model folder or Hugging Face hub id; other arguments as for the class.

        Raises:
            ModelNotFoundError: neither a model folder nor a known hub id.
            UnsupportedModelError: not a causal LM, incomplete, of no known family, or one that
                computes something that Errata does not.
            InvalidRequestError: unknown dtype or device.
        """
        model, tokenizer = load_model(source, dtype=dtype, device=device)
        return cls(model, tokenizer, special_tokens=special_tokens)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.down_weight(0).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.down_weight(0).dtype

    @property
    def has_equal_layers(self) -> bool:
        """Whether all blocks are called with the same masks."""
        return not self._mixed_layers

    @property
    def pad_id(self) -> int:
        """A token id for padding, always masked: the pad token, else end of text, else 0.

        A pad token that was added to the tokenizer alone has no embedding; any other id pads.
        """
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None and token < self.num_embeddings:
                return int(token)
        return 0

    def _check_layers(self) -> None:
        """Refuses a model whose down projections differ in shape."""
        for layer in range(self.num_layers):
            if tuple(self.down_weight(layer).shape) != (self.d, self.d_ff):
                raise UnsupportedModelError(
                    f"the FFN of layer {layer} is not of shape ({self.d}, {self.d_ff}) like the "
                    "first; models whose layers differ cannot be edited.",
                    layer=layer,
                )

    def _find_end_ids(self) -> tuple[int, ...]:
        """End of text as tokenizer, generation config and config name it, each one or several."""
        hf: Any = self.model
        generation = getattr(hf, "generation_config", None)
        found: set[int] = set()
        for source in (self.tokenizer, generation, hf.config):
            named = getattr(source, "eos_token_id", None)
            if named is not None:
                found.update(named if isinstance(named, list | tuple) else [named])
        return tuple(sorted(found))

    def attention(self, layer: int) -> nn.Module:
        """The attention of a block; its output (or the first of its outputs) is (B, T, d)."""
        return self.blocks[layer].get_submodule(self._family.attention)

    def ffn(self, layer: int) -> nn.Module:
        """The feed-forward network of a block; (B, T, d) → (B, T, d)."""
        return self.blocks[layer].get_submodule(self._family.ffn)

    def down(self, layer: int) -> nn.Module:
        """The FFN's down projection; (B, T, d_ff) → (B, T, d)."""
        return self.ffn(layer).get_submodule(self._family.down)

    def up(self, layer: int) -> nn.Module:
        """The FFN's first projection; (B, T, d) → (B, T, d_ff)."""
        return self.ffn(layer).get_submodule(self._family.up)

    def gate(self, layer: int) -> nn.Module | None:
        """What gates `up` through the activation, (B, T, d) → (B, T, d_ff), if anything does."""
        name = self._family.gate
        return None if name is None else self.ffn(layer).get_submodule(name)

    def activation(self, layer: int) -> nn.Module:
        """The FFN's nonlinearity."""
        return self.ffn(layer).get_submodule(self._family.activation)

    def attention_mask(self, positions: Tensor, length: int) -> Any:
        """What each position may attend to: those up to itself, inside its window if it has one.

        Args:
            positions: (B, T) int64 on the model's device, where the queries stand.
            length: keys are at positions 0 … length − 1.

        Returns:
            (B, 1, T, length) in the model's dtype, 0 or its most negative number, to be added to
            the scores; a mapping from layer type to such masks if the model's layers differ.
        """
        keys = torch.arange(length, device=positions.device)
        allowed = keys <= positions[..., None]
        whole = self._additive(allowed)
        if self._window is None:
            return whole
        inside = self._additive(allowed & (keys > positions[..., None] - self._window))
        if self._mixed_layers:
            return {"full_attention": whole, "sliding_attention": inside}
        return inside

    def _additive(self, allowed: Tensor) -> Tensor:
        mask = torch.zeros(allowed.shape, device=allowed.device, dtype=self.dtype)
        return mask.masked_fill_(~allowed, torch.finfo(self.dtype).min)[:, None]

    def down_weight(self, layer: int) -> Tensor:
        """A (d, d_ff) view of the down projection's weight as it is now."""
        weight = self.down(layer).get_parameter("weight").detach()
        return weight.T if self._family.transposed else weight

    def set_down_weight(self, layer: int, weight: Tensor) -> None:
        """Puts a (d, d_ff) weight in, rounded to the model's dtype.

        The old tensor is left as it was for whoever holds it (`down_weights`).
        """
        own = self.down(layer).get_parameter("weight")
        stored = weight.T if self._family.transposed else weight
        own.data = torch.empty_like(own.data).copy_(stored)

    def down_weights(self) -> list[Tensor]:
        """The down projections of all layers as the model stores them now, not copied."""
        return [self.down(n).get_parameter("weight").data for n in range(self.num_layers)]

    def use_down_weights(self, weights: Sequence[Tensor]) -> None:
        """Points the model at what `down_weights` gave: one pointer a layer, no copy."""
        for layer, weight in enumerate(weights):
            self.down(layer).get_parameter("weight").data = weight

    def current_digest(self) -> str:
        """SHA-256, hex, of config and of every weight's name, dtype, shape and bytes as of now.

        Also of how prompts are read, if not as by default: replicas that read them otherwise must
        not follow one log.
        """
        hf: Any = self.model
        config: dict[str, Any] = hf.config.to_dict()
        facts = {name: config[name] for name in sorted(config) if name not in _VOLATILE}
        state = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        if self.special_tokens != "text":
            state.update(f"special_tokens={self.special_tokens}".encode())
        for name, parameter in sorted(self.model.named_parameters()):
            state.update(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}|".encode())
            state.update(tensor_bytes(parameter))
        return state.hexdigest()


def _attention_window(config: Any) -> tuple[int | None, bool]:
    """The width of sliding windows, None without any; and whether layers differ in it."""
    layer_types = set(getattr(config, "layer_types", None) or ())
    window: int | None = getattr(config, "sliding_window", None)
    if layer_types == {"full_attention"}:
        window = None
    return window, len(layer_types) > 1
