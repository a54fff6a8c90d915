"""What a RECIPE lane learns once and keeps: encoder, MLP_K, MLP_Q, MLP_P, Knowledge Sentinel.

One lane model serves all edits of its lane. It travels as one artifact, tokenizer and encoder
configuration included, so that whoever has its bytes needs nothing else.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.devices import has_fast_bf16
from errata.editing.model.prompts import join, tokenise, tokenise_all
from errata.editing.retriever.encoder import Encoder, Tokens
from errata.editing.retriever.frames import Frames
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    InvalidRequestError,
    ModelNotFoundError,
)

FILE_NAME = "lane_model.safetensors"
_KIND = "recipe-lane-model"


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that fix a lane model's form.

    Attributes:
        d_r: width of keys and queries. Paper: 4096.
        num_prompt: l, continuous prompt tokens of an edit. Paper: 3.
        deep: layers at which a continuous prompt is deepened: something is added to what enters
            the block at its positions (as in prefix tuning). Paper: none.
        num_target: how many of the target's first tokens MLP_P sees beside the key; 0 is the paper.
        num_sentinel: c, free vectors of the sentinel. Paper: 10.
        after: how many of the prompt's tokens come before the continuous prompt: 0 puts it before
            the BOS token, as the authors' code does, 1 behind it.
        d: width of the LLM.
        max_tokens: longest text that the encoder reads.
    """

    d_r: int
    num_prompt: int
    deep: tuple[int, ...]
    num_target: int
    num_sentinel: int
    after: int
    d: int
    max_tokens: int

    @property
    def prompt_size(self) -> tuple[int, int, int]:
        """(S, l, d) of a continuous prompt: embeddings, then what is added at each deep layer."""
        return 1 + len(self.deep), self.num_prompt, self.d


class Representation(nn.Module):
    """MLP_K or MLP_Q: h = W₁x + b₁; out = h + ReLU(W₂h + b₂)."""

    def __init__(self, width: int, d_r: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, d_r), nn.Linear(d_r, d_r)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) → (n, d_r)."""
        h: Tensor = self.first(x)
        return h + torch.relu(self.second(h))


class PromptMaker(nn.Module):
    """MLP_P: g = r + ReLU(W₃r + b₃); s·(W₄g + b₄) as (l, d), and the same for each deep layer.

    The factors s, the spread of what the LLM has there (token embeddings, or the residual stream),
    are ours: prompts start where the model expects its input, whatever its scale. So is what is
    done with the target's own tokens t_i, in units of s, if there are any: αr + W₅t in place of r,
    and A·t_i on top of the i-th embedding, where the gate α starts at 0 and A as the identity. A
    key is trained to be like its queries, which do not know the target: it is a poor place to keep
    it, and MLP_P would learn the rest by heart. Deep layers are ours, too: embeddings alone do not
    outweigh what the LLM has learned about a subject (docs/decisions/008-recipe.md).
    """

    scale: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first = nn.Linear(shape.d_r, shape.d_r)
        self._size = shape.prompt_size
        self.second = nn.Linear(shape.d_r, math.prod(self._size))
        self.register_buffer("scale", torch.ones(self._size[0], 1, 1))
        self._num_copied = min(shape.num_prompt, shape.num_target)
        if shape.num_target:
            self.gate = nn.Parameter(torch.zeros(()))
            self.target = nn.Linear(shape.num_target * shape.d, shape.d_r)
            self.copy = nn.Linear(shape.d, shape.d, bias=False)
            nn.init.eye_(self.copy.weight)

    def forward(self, keys: Tensor, targets: Tensor) -> Tensor:
        """(n, d_r) and token embeddings (n, num_target, d) → (n, S, l, d)."""
        r, n = keys, self._num_copied
        if n:
            targets = targets / self.scale[0]
            r = self.gate * r + self.target(targets.flatten(1))
        g = r + torch.relu(self.first(r))
        made: Tensor = self.second(g).reshape(len(keys), *self._size)
        if n:
            num_layers, length, _ = self._size
            rest = (0, 0, 0, length - n, 0, num_layers - 1)
            made = made + nn.functional.pad(self.copy(targets[:, None, :n]), rest)
        return self.scale * made


class LaneModel(nn.Module):
    """All trained parts of a lane; the LLM stays as it is.

    Attributes:
        encoder: f.
        shape: widths and counts.
        base_model: digest of the LLM that it was trained for.
        sentinel: Θ, (c, width of the encoder).
        calibration: factor on the sentinel's key; 1 is the paper, below 1 more is claimed.
        frames: how the relations of training are asked, for edits that bring no rephrasings.
    """

    calibration: Tensor

    def __init__(
        self, encoder: Encoder, shape: Shape, base_model: str, frames: Frames | None = None
    ) -> None:
        """With random heads; Θ starts at U(−0.05, 0.05)."""
        super().__init__()
        self.encoder, self.shape, self.base_model = encoder, shape, base_model
        self.frames = frames or Frames({})
        self.key_mlp = Representation(encoder.pooled_width, shape.d_r)
        self.query_mlp = Representation(encoder.pooled_width, shape.d_r)
        self.prompt_mlp = PromptMaker(shape)
        self.register_buffer("calibration", torch.ones(()))
        start = torch.empty(shape.num_sentinel, encoder.width).uniform_(-0.05, 0.05)
        self.sentinel = nn.Parameter(start)

    def keys(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r_k = MLP_K(f(k)) of knowledge statements, (n, d_r)."""
        made: Tensor = self.key_mlp(self.encoder.in_parts(texts))
        return made

    def edit_keys(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r_k of edits' knowledge statements, (n, d_r), by an encoder in bf16 where that is faster.

        A key is made once and travels in the log. Queries are made again on every replica and in
        every batch, and need fp32 to agree.
        """
        made: Tensor = self.key_mlp(self._quick_encoder.in_parts(texts))
        return made

    @cached_property
    def _quick_encoder(self) -> Encoder:
        if not has_fast_bf16(self.encoder.device):
            return self.encoder
        quick = copy.deepcopy(self.encoder)
        quick.model.to(torch.bfloat16)
        return quick

    def queries(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r̃_q = MLP_Q(f(q)) of prompts, (n, d_r)."""
        made: Tensor = self.query_mlp(self.encoder.in_parts(texts))
        return made

    def sentinel_key(self) -> Tensor:
        """r_Θ = MLP_K(f(Θ)), (d_r), times the calibration."""
        made: Tensor = self.key_mlp(self.encoder.pool_vectors(self.sentinel)[None])
        return self.calibration * made[0]

    def prompts(self, keys: Tensor, targets: Tensor) -> Tensor:
        """p_k = MLP_P(r_k), (n, S, l, d), from keys and what `target_embeddings` gives."""
        made: Tensor = self.prompt_mlp(keys, targets)
        return made

    def target_embeddings(
        self,
        llm: CausalLM,
        facts: Sequence[tuple[str, str]],
        stated: Sequence[str | None] = (),
    ) -> Tensor:
        """The LLM's embeddings of the targets' first tokens, (n, num_target, d); 0 behind the end.

        Args:
            llm: that the lane model is for.
            facts: prompts and targets.
            stated: what stands between, as for `tokenise_all`.
        """
        width = self.shape.num_target
        texts = tokenise_all(llm, facts, stated)
        firsts = [text.ids[len(text.ids) - text.num_target :][:width] for text in texts]
        padded = [[*first, *[llm.pad_id] * (width - len(first))] for first in firsts]
        ids = torch.tensor(padded, dtype=torch.int64, device=llm.device)
        ids = ids.reshape(len(facts), width)
        sizes = torch.tensor([len(first) for first in firsts], device=llm.device)
        is_real = torch.arange(width, device=llm.device) < sizes[:, None]  # (n, num_target)
        made: Tensor = llm.embeddings(ids).float() * is_real[..., None]
        return made

    def to_artifact(self) -> Artifact:
        """The whole lane model as one artifact."""
        config: dict[str, Any] = self.encoder.model.config.to_diff_dict()
        facts = {
            "kind": _KIND,
            "base_model": self.base_model,
            "encoder": json.dumps(
                {**config, "model_type": self.encoder.model.config.model_type}, sort_keys=True
            ),
            "tokenizer": self.encoder.tokenizer.to_str(),
            "frames": self.frames.to_json(),
            "shape": json.dumps(
                {name: getattr(self.shape, name) for name in Shape.__slots__}, sort_keys=True
            ),
        }
        return Artifact({name: t.detach() for name, t in self.state_dict().items()}, facts)

    def save(self, folder: Path) -> None:
        """Writes `lane_model.safetensors` into a folder, which exists afterwards."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_bytes(self.to_artifact().to_bytes())

    @classmethod
    def from_artifact(cls, artifact: Artifact, llm: BaseLLM) -> LaneModel:
        """Reads what `to_artifact` made.

        Raises:
            BaseModelMismatchError: it was trained for another LLM.
            ArtifactCorruptError: it is no lane model, or a tensor is missing, too many, or of
                another shape.
        """
        facts = artifact.metadata
        if facts.get("kind") != _KIND:
            raise ArtifactCorruptError("the artifact is no RECIPE lane model.")
        _check_base(facts.get("base_model", ""), llm)
        try:
            numbers = json.loads(facts["shape"])
            shape = Shape(**{**numbers, "deep": tuple(numbers["deep"])})
            config = json.loads(facts["encoder"])
            encoder = Encoder.from_config(config, facts["tokenizer"], shape.max_tokens)
            frames = Frames.of_json(facts["frames"])
            made = cls(encoder, shape, facts["base_model"], frames)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(
                f"the lane model does not say how it is built: {error}."
            ) from error
        if isinstance(llm, CausalLM):
            _check_fits(shape, llm)
        expected = made.state_dict()
        artifact.check({n: TensorSpec(tuple(t.shape), t.dtype) for n, t in expected.items()})
        made.load_state_dict(artifact.tensors)
        return made.to(llm.device).eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, llm: CausalLM) -> LaneModel:
        """Reads what `save` wrote.

        Raises:
            ModelNotFoundError: there is none.
            BaseModelMismatchError, ArtifactCorruptError: as `from_artifact`.
        """
        return cls.from_artifact(Artifact.from_bytes(read_bytes(folder)), llm)


def read_bytes(folder: Path) -> bytes:
    """The bytes of the lane model in a folder.

    Raises:
        ModelNotFoundError: there is none.
    """
    path = folder / FILE_NAME
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(
            f"there is no lane model at {path} ({error.strerror}); make one with `errata train "
            "recipe`."
        ) from error


def knowledge(prompt: str, target: str, stated: str | None = None) -> str:
    """k, the knowledge statement of an edit; `stated` as for `join`."""
    return join(prompt, target, stated)


def place_behind_bos(llm: CausalLM) -> int:
    """`Shape.after` that puts continuous prompts behind the tokenizer's BOS token: 0 or 1.

    Raises:
        InvalidRequestError: the tokenizer puts more than one special token in front.
    """
    special = set(llm.tokenizer.all_special_ids)
    ids = tokenise(llm, "a").ids
    count = next((n for n, token in enumerate(ids) if token not in special), len(ids))
    if count > 1:
        raise InvalidRequestError(
            f"the tokenizer puts {count} special tokens before a text; put prompts before them.",
            field="placement",
        )
    return count


def _check_fits(shape: Shape, llm: CausalLM) -> None:
    if shape.d != llm.d or max(shape.deep, default=0) >= llm.num_layers:
        raise BaseModelMismatchError(
            f"the lane model makes prompts of width {shape.d} for layers {list(shape.deep)}, the "
            f"LLM has width {llm.d} and {llm.num_layers} layers; train one for this LLM."
        )


def _check_base(digest: str, llm: BaseLLM) -> None:
    if digest != llm.digest:
        raise BaseModelMismatchError(
            f"the lane model was trained for base model {digest[:16]}…, this process runs "
            f"{llm.digest[:16]}…; train one for this model with `errata train recipe`.",
            expected=digest,
            found=llm.digest,
        )
