"""A common view of all families of causal language models: body, head, tokenizer and masks."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from errata.editing.artifact import tensor_bytes
from errata.editing.model.block_check import check_blocks
from errata.editing.model.blocks import Blocks
from errata.editing.model.chat_template import (
    SpecialTokens,
    control_tokens,
    has_template,
    turn_end_ids,
)
from errata.editing.model.families import attention_window, family_of, unsupported
from errata.editing.model.head import head_of
from errata.editing.model.loading import check_tokenizer, load_model
from errata.editing.model.self_check import check_forward, check_window
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


class Widths(Protocol):
    """The sizes of an LLM that determine those of its lanes."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""

    @property
    def d(self) -> int:
        """Width."""

    @property
    def d_ff(self) -> int:
        """Width of the FFN's intermediate."""


@dataclass(frozen=True, slots=True)
class KnownLLM:
    """An LLM that is known by its digest alone."""

    digest: str
    device: torch.device


class CausalLM(Blocks):
    """A causal language model and its tokenizer, with the same names for all families.

    Attributes:
        model: the Hugging Face model, frozen and in eval mode.
        tokenizer: its fast tokenizer, unchanged.
        markup_tokenizer: a copy of it for what a chat template wrote, in which control tokens are
            tokens.
        control_tokens: matches a control token in a text; None if the tokenizer has none.
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
        super().__init__(model.eval(), family)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.tokenizer = tokenizer
        self.control_tokens = control_tokens(tokenizer)
        self.markup_tokenizer = copy.deepcopy(tokenizer) if has_template(tokenizer) else tokenizer
        self.norm: nn.Module = self.body.get_submodule(family.body.norm)
        self.embeddings: nn.Module = self.body.get_submodule(family.body.embeddings)
        head = head_of(model)
        if head is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no language-model head. Load a causal LM.",
                model_class=type(model).__name__,
            )
        self.head: nn.Module = head
        self.num_embeddings, width = self.embeddings.get_parameter("weight").shape
        if width != self.d:
            raise unsupported(model, f"its embeddings have width {width}, its blocks {self.d}")
        self.special_tokens = special_tokens
        self.end_ids = self._find_end_ids()
        self.max_positions = _max_positions(model)
        self._window, self._mixed_layers = attention_window(model)
        self.plan_hooks: object | None = None
        check_tokenizer(tokenizer, self.num_embeddings)
        check_forward(self)
        check_window(self)
        check_blocks(self, self.embeddings, self.norm)
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

    @contextmanager
    def narrowed(self, window: int) -> Iterator[bool]:
        """Narrows the sliding window of view and model inside; yields whether there is one."""
        hf: Any = self.model
        if self._window is None:
            yield False
            return
        own, self._window = self._window, window
        hf.config.sliding_window = window
        try:
            yield True
        finally:
            self._window = hf.config.sliding_window = own

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


def _max_positions(model: nn.Module) -> int:
    hf: Any = model
    limit: int | None = getattr(hf.config, "max_position_embeddings", None)
    if limit is None:
        raise unsupported(model, "its config states no max_position_embeddings")
    return int(limit)
