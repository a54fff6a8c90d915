"""The text encoder f: any Hugging Face encoder, or a small one with the LLM's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel

from errata.editing.model.causal_lm import CausalLM
from errata.errors import ModelNotFoundError, UnsupportedModelError

NUM_POOLINGS = 4  # pooler output, mean, maximum, minimum
_AT_ONCE = 128
_CUT_SIDE = "left"  # a query's question is at its end


@dataclass(frozen=True, eq=False, slots=True)
class Tokens:
    """Tokenised texts, padded on the right.

    Attributes:
        ids: (n, T) int64.
        mask: (n, T) int64, 1 on real tokens.
        cut: for each text, whether its beginning was cut off.
    """

    ids: Tensor
    mask: Tensor
    cut: tuple[bool, ...]

    def rows(self, numbers: Tensor) -> Tokens:
        """The texts with these indices, (m) int64, padded to the longest of them."""
        mask = self.mask[numbers]
        longest = int(mask.sum(1).max())
        cut = tuple(self.cut[number] for number in numbers.tolist())
        return Tokens(self.ids[numbers, :longest], mask[:, :longest], cut)


class Encoder(nn.Module):
    """Encodes texts, or free vectors, as pooled vectors x = [pooler; mean; max; min], 4·width wide.

    The paper names three poolings; the authors' code uses these four. For an encoder without a
    pooler, the hidden state of the first token takes its place.

    Attributes:
        model: the Hugging Face encoder.
        tokenizer: pads on the right and truncates long texts on the left.
        max_tokens: length of the longest text, including special tokens.
        width: of the encoder's hidden states.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Takes a model and its tokenizer.

        Args:
            model: an encoder with a module `embeddings` before its layers, as in BERT, RoBERTa,
                MPNet and DistilBERT.
            tokenizer: of the model; its truncation and padding are changed.
            max_tokens: no more than the model has positions for.

        Raises:
            UnsupportedModelError: the model has no such module.
        """
        super().__init__()
        if not isinstance(getattr(model, "embeddings", None), nn.Module):
            raise UnsupportedModelError(
                f"{type(model).__name__} has no module `embeddings` whose output free vectors can "
                "replace; use an encoder such as BERT or RoBERTa.",
                model_class=type(model).__name__,
            )
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        config: Any = model.config
        self.width = int(config.hidden_size)
        pad_id = int(config.pad_token_id or 0)
        tokenizer.enable_truncation(max_tokens, direction=_CUT_SIDE)
        tokenizer.enable_padding(pad_id=pad_id, pad_token=tokenizer.id_to_token(pad_id) or "")

    @property
    def pooled_width(self) -> int:
        """Width of x."""
        return NUM_POOLINGS * self.width

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @classmethod
    def load(cls, source: str | Path, max_tokens: int) -> Encoder:
        """Loads an encoder from a folder or by hub id.

        Raises:
            ModelNotFoundError: neither a folder with an encoder and its tokenizer nor a hub id.
            UnsupportedModelError: the encoder cannot read free vectors.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), use_fast=True)
            model = AutoModel.from_pretrained(str(source), dtype=torch.float32)
            backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        except (OSError, ValueError, AttributeError) as error:
            raise ModelNotFoundError(
                f"the encoder {source} cannot be loaded: {error}. Use the folder or hub id of an "
                "encoder with a fast tokenizer."
            ) from error
        positions = int(getattr(model.config, "max_position_embeddings", max_tokens))
        offset = int(model.config.pad_token_id or 0) + 1  # RoBERTa's positions start after it
        return cls(model, backend, min(max_tokens, positions - offset))

    @classmethod
    def small(cls, llm: CausalLM, max_tokens: int, *, width: int, depth: int) -> Encoder:
        """A new BERT with an LLM's tokenizer, for use without a pretrained encoder.

        Its layers are random. Its token embeddings are those of the LLM, randomly projected if the
        widths differ, so that dissimilar words have dissimilar vectors from the start.
        """
        tokenizer = Tokenizer.from_str(llm.tokenizer.backend_tokenizer.to_str())
        config = small_config(len(llm.tokenizer), llm.pad_id, max_tokens, width=width, depth=depth)
        model = BertModel(config)
        own = model.embeddings.word_embeddings.weight.data
        known = llm.embeddings.get_parameter("weight").detach().float().cpu()[: len(own)]
        if llm.d != width:
            known = known @ torch.randn(llm.d, width) / llm.d**0.5
        own[: len(known)] = known * (config.initializer_range / known.std())
        return cls(model, tokenizer, max_tokens)

    @classmethod
    def from_config(cls, config: dict[str, Any], tokenizer: str, max_tokens: int) -> Encoder:
        """An encoder of the given architecture; its weights must still be loaded.

        Raises:
            KeyError, TypeError, ValueError: the arguments describe none.
        """
        try:
            backend = Tokenizer.from_str(tokenizer)
            made = AutoModel.from_config(AutoConfig.for_model(**config))
        except (KeyError, TypeError, ValueError):
            raise
        except Exception as error:  # of the tokenizer: a plain one; of negative widths: many
            raise ValueError(f"no encoder can be made of it: {error}") from error
        most = int(getattr(made.config, "max_position_embeddings", max_tokens))
        first = getattr(getattr(made, "embeddings", None), "padding_idx", None)
        most -= 0 if first is None else first + 1  # RoBERTa's positions start after padding
        if not 1 <= max_tokens <= most:
            raise ValueError(f"max_tokens is {max_tokens}, but the encoder has {most} positions")
        return cls(made, backend, max_tokens)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Tokenises texts; texts longer than `max_tokens` lose their beginning."""
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([row.ids for row in encoded], device=self.device)
        mask = torch.tensor([row.attention_mask for row in encoded], device=self.device)
        return Tokens(ids, mask, tuple(bool(row.overflowing) for row in encoded))

    def forward(self, texts: Sequence[str] | Tokens) -> Tensor:
        """Pooled vectors (n, 4·width) of n texts."""
        tokens = texts if isinstance(texts, Tokens) else self.tokens(texts)
        output = self.model(input_ids=tokens.ids, attention_mask=tokens.mask)
        return self._pool(output, tokens.mask)

    def in_parts(self, texts: Sequence[str] | Tokens) -> Tensor:
        """As `forward`, in batches of texts of similar length."""
        tokens = texts if isinstance(texts, Tokens) else self.tokens(texts)
        lengths = tokens.mask.sum(1)
        order = lengths.argsort(stable=True)
        pooled = torch.cat([self(tokens.rows(part)) for part in order.split(_AT_ONCE)])
        return pooled[order.argsort()]

    def pool_vectors(self, vectors: Tensor) -> Tensor:
        """The pooled vector (4·width) of free vectors (c, width), the input of the first layer.

        No position embedding and no embedding norm is applied, as in the authors' code.
        """
        ids = torch.zeros(1, len(vectors), dtype=torch.int64, device=vectors.device)
        handle: RemovableHandle = self.model.embeddings.register_forward_hook(
            lambda *_: vectors[None]
        )
        try:
            output = self.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        finally:
            handle.remove()
        return self._pool(output, torch.ones_like(ids))[0]

    def _pool(self, output: Any, mask: Tensor) -> Tensor:
        """Pools hidden states (n, T, width) over the real tokens, in fp32."""
        hidden: Tensor = output.last_hidden_state.float()
        pooled = getattr(output, "pooler_output", None)
        first = hidden[:, 0] if pooled is None else pooled.float()
        real = mask[..., None].bool()
        mean = (hidden * real).sum(1) / real.sum(1)
        highest = hidden.masked_fill(~real, -torch.inf).amax(1)
        lowest = hidden.masked_fill(~real, torch.inf).amin(1)
        return torch.cat([first, mean, highest, lowest], dim=-1)


def small_config(
    num_tokens: int, pad_id: int, max_tokens: int, *, width: int, depth: int
) -> BertConfig:
    """The architecture of `Encoder.small`, for a vocabulary of `num_tokens`."""
    return BertConfig(
        vocab_size=num_tokens,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
        max_position_embeddings=max_tokens,
        pad_token_id=pad_id,
    )
