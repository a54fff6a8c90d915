"""A common view of GPT-2, GPT-J, Llama, Mistral and Qwen: modules by role, weights as (d, d_ff)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from errata.editing.artifact import tensor_bytes
from errata.editing.model.chat_template import SpecialTokens, has_template, turn_end_ids
from errata.editing.model.families import family_of
from errata.editing.model.loading import check_tokenizer, load_model
from errata.editing.model.self_check import check_forward
from errata.errors import UnsupportedModelError

# Fields of a config that do not affect what the model computes.
_VOLATILE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)


class BaseLLM(Protocol):
    """The parts of an LLM that routing needs, without the weights."""

    @property
    def digest(self) -> str:
        """SHA-256, hex, of config and weights without any edit."""

    @property
    def device(self) -> torch.device:
        """The device for tensors."""


@dataclass(frozen=True, slots=True)
class KnownLLM:
    """An LLM that is known by its digest alone."""

    digest: str
    device: torch.device


class CausalLM:
    """A causal language model and its tokenizer, with the same names for all families.

    Attributes:
        model: the Hugging Face model, frozen and in eval mode.
        tokenizer: its fast tokenizer, unchanged.
        body: the decoder without head; called as `body(input_ids, attention_mask=…)`.
        blocks: the transformer blocks in order.
        norm: the final norm.
        head: hidden (…, d) → logits (…, vocabulary).
        embeddings: token embeddings, (num_embeddings, d).
        num_embeddings: number of token ids that the model has.
        end_ids: tokens that end a text.
        special_tokens: how a control token written out in a prompt is read.
        num_layers: number of blocks.
        d: width.
        d_ff: width of the FFN's intermediate.
        max_positions: the model's maximum sequence length.
        plan_hooks: `PlanHooks` of the model, kept here for as long as the model exists; the model
            itself does not use them.
        digest: SHA-256, hex, of config and weights when the view was created. Create it before the
            first edit, so that this is the digest of the base model.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, special_tokens: SpecialTokens = "text"
    ) -> None:
        """Creates the view of a loaded model, and checks the model.

        Args:
            model: a Hugging Face causal LM.
            tokenizer: its fast tokenizer.
            special_tokens: `text` reads a written-out special token as plain text; `parse` reads it
                as the special token, and a prompt may contain its own start of text. Added tokens
                that are not marked as special are tokens in either case.

        Raises:
            UnsupportedModelError: the modules or shapes match no known family, the tokenizer has
                tokens without an embedding, or body and head differ from the model's own forward.
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
            UnsupportedModelError: not a causal LM, incomplete, of no known family, or with a
                computation that Errata does not reproduce.
            InvalidRequestError: unknown dtype or device.
        """
        model, tokenizer = load_model(source, dtype=dtype, device=device)
        return cls(model, tokenizer, special_tokens=special_tokens)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.down_weight(0).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.down_weight(0).dtype

    @property
    def has_equal_layers(self) -> bool:
        """Whether all blocks are called with the same masks."""
        return not self._mixed_layers

    @property
    def has_chat_template(self) -> bool:
        """Whether it takes conversations; its edits are then trained in both forms."""
        return has_template(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """A token id for padding, always masked: the pad token, else end of text, else 0.

        A pad token without an embedding, which was added to the tokenizer alone, is not used.
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
        """All tokens that end a text or an answer: of tokenizer, configs and chat template."""
        hf: Any = self.model
        generation = getattr(hf, "generation_config", None)
        found: set[int] = set(turn_end_ids(self.tokenizer))
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
        """The projection that gates `up` through the activation; None if the FFN has no gate.

        (B, T, d) → (B, T, d_ff).
        """
        name = self._family.gate
        return None if name is None else self.ffn(layer).get_submodule(name)

    def activation(self, layer: int) -> nn.Module:
        """The FFN's nonlinearity."""
        return self.ffn(layer).get_submodule(self._family.activation)

    def attention_mask(self, positions: Tensor, length: int) -> Any:
        """The attention mask: each position attends to those up to itself, within its window.

        Args:
            positions: (B, T) int64 on the model's device, positions of the queries.
            length: number of keys, at positions 0 … length − 1.

        Returns:
            (B, 1, T, length) in the model's dtype, 0 or its most negative number, which is added to
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
        """A (d, d_ff) view of the down projection's current weight."""
        weight = self.down(layer).get_parameter("weight").detach()
        return weight.T if self._family.transposed else weight

    def set_down_weight(self, layer: int, weight: Tensor) -> None:
        """Replaces the weight by a (d, d_ff) one, rounded to the model's dtype.

        The old tensor is not changed; holders of `down_weights` can continue to use it.
        """
        own = self.down(layer).get_parameter("weight")
        stored = weight.T if self._family.transposed else weight
        own.data = torch.empty_like(own.data).copy_(stored)

    def down_weights(self) -> list[Tensor]:
        """The current down projections of all layers, as the model stores them, without a copy."""
        return [self.down(n).get_parameter("weight").data for n in range(self.num_layers)]

    def use_down_weights(self, weights: Sequence[Tensor]) -> None:
        """Makes the model use a result of `down_weights`, without a copy."""
        for layer, weight in enumerate(weights):
            self.down(layer).get_parameter("weight").data = weight

    def current_digest(self) -> str:
        """SHA-256, hex, of config and of every weight's current name, dtype, shape and bytes.

        A non-default `special_tokens` is included: replicas that read prompts differently must not
        follow the same log.
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
    """The width of the sliding window, None without one, and whether layers differ in it."""
    layer_types = set(getattr(config, "layer_types", None) or ())
    window: int | None = getattr(config, "sliding_window", None)
    if layer_types == {"full_attention"}:
        window = None
    return window, len(layer_types) > 1
