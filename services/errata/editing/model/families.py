"""The structure of a causal language model: the role of each of its modules, by module names alone.

A structure has three parts, which combine freely: the body, its blocks, and the FFN of a block. The
class, the config and the name of the model are not considered. A block with an additional module
(cross-attention, a router of experts, a recurrence) computes something else and is refused;
`block_check` verifies by numbers that the modules have their roles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from errata.errors import UnsupportedModelError

SUPPORTED = (
    *("Arcee", "Cohere and Cohere 2", "CodeGen", "Exaone 4", "Falcon (rotary)", "Gemma 1 to 3"),
    *("GLM and GLM-4", "GPT-2", "GPT-BigCode", "GPT-J", "GPT-NeoX (Pythia)", "Granite", "Llama"),
    *("Mistral", "Nemotron", "OLMo 1 to 3", "OPT", "Persimmon", "Phi (1, 1.5 and 2)"),
    *("Phi-3 and Phi-4", "Qwen2 and Qwen3", "SmolLM3", "StableLM", "StarCoder2"),
)
"""Names of models with structures that are tested."""


@dataclass(frozen=True, slots=True)
class Body:
    """Module names of a decoder without its head.

    Attributes:
        path: the decoder, relative to the model.
        blocks: the list of blocks, relative to the decoder, as are `embeddings` and `norm`.
        embeddings: token embeddings.
        norm: the final norm.
    """

    path: str
    blocks: str
    embeddings: str
    norm: str


@dataclass(frozen=True, slots=True)
class Block:
    """Module names of a transformer block.

    Attributes:
        children: exactly its modules, without those of an FFN that has no module of its own.
        attention: the attention.
        ffn: the feed-forward network; empty if its projections are modules of the block.
        attention_norm: the norm of the attention's output, if there is one.
        ffn_norm: the norm of the FFN's output, if there is one.
    """

    children: frozenset[str]
    attention: str
    ffn: str = "mlp"
    attention_norm: str | None = None
    ffn_norm: str | None = None


@dataclass(frozen=True, slots=True)
class Ffn:
    """Module names of a feed-forward network.

    Attributes:
        up: the first projection.
        activation: the nonlinearity.
        down: the last projection.
        gate: the projection that gates `up` through the activation, if there is one.
        is_fused: `up` computes gate and up, in this order, in one product.
        others: modules that do nothing outside training.
    """

    up: str
    activation: str
    down: str
    gate: str | None = None
    is_fused: bool = False
    others: frozenset[str] = frozenset()

    @property
    def children(self) -> frozenset[str]:
        """Exactly its modules."""
        named = {self.up, self.activation, self.down, self.gate} - {None}
        return self.others.union(name for name in named if name is not None)


@dataclass(frozen=True, slots=True)
class Family:
    """The structure of a model."""

    body: Body
    block: Block
    ffn: Ffn


_BODIES = (
    Body("transformer", "h", "wte", "ln_f"),  # GPT-2, GPT-J
    Body("transformer", "h", "word_embeddings", "ln_f"),  # Falcon
    Body("gpt_neox", "layers", "embed_in", "final_layer_norm"),
    Body("model.decoder", "layers", "embed_tokens", "final_layer_norm"),  # OPT
    Body("model", "layers", "embed_tokens", "norm"),  # Llama and most others
    Body("model", "layers", "embed_tokens", "final_layernorm"),  # Phi
)

_LLAMA = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
_COHERE = frozenset({"self_attn", "mlp", "input_layernorm"})
_OLMO2 = frozenset({"self_attn", "mlp", "post_attention_layernorm", "post_feedforward_layernorm"})
_NEOX = frozenset({"attention", "mlp", "input_layernorm", "post_attention_layernorm"})
_BLOCKS = (
    Block(frozenset({"ln_1", "attn", "ln_2", "mlp"}), "attn"),  # GPT-2
    Block(frozenset({"ln_1", "attn", "mlp"}), "attn"),  # GPT-J: attention and FFN in parallel
    Block(_LLAMA, "self_attn"),
    Block(_LLAMA | {"resid_attn_dropout", "resid_mlp_dropout"}, "self_attn"),  # Phi-3
    Block(_LLAMA | {"dropout"}, "self_attn"),  # StableLM
    Block(_COHERE, "self_attn"),
    Block(_COHERE | {"resid_dropout"}, "self_attn"),  # Phi
    Block(_COHERE | {"dropout"}, "self_attn"),  # StableLM, parallel
    Block(
        _OLMO2,
        "self_attn",
        attention_norm="post_attention_layernorm",
        ffn_norm="post_feedforward_layernorm",
    ),
    Block(
        _OLMO2 | {"input_layernorm", "pre_feedforward_layernorm"},  # Gemma 2 and 3
        "self_attn",
        attention_norm="post_attention_layernorm",
        ffn_norm="post_feedforward_layernorm",
    ),
    Block(
        _LLAMA | {"post_self_attn_layernorm", "post_mlp_layernorm"},  # GLM-4
        "self_attn",
        attention_norm="post_self_attn_layernorm",
        ffn_norm="post_mlp_layernorm",
    ),
    Block(_NEOX | {"post_attention_dropout", "post_mlp_dropout"}, "attention"),
    Block(frozenset({"self_attn", "self_attn_layer_norm", "final_layer_norm"}), "self_attn", ""),
    Block(frozenset({"self_attention", "mlp", "input_layernorm"}), "self_attention"),  # Falcon
    Block(frozenset({"self_attention", "mlp", "ln_attn", "ln_mlp"}), "self_attention"),
    Block(
        frozenset({"self_attention", "mlp", "input_layernorm", "post_attention_layernorm"}),
        "self_attention",
    ),
)

_FFNS = (
    Ffn("c_fc", "act", "c_proj", others=frozenset({"dropout"})),  # GPT-2
    Ffn("c_fc", "act", "c_proj"),  # StarCoder2
    Ffn("fc_in", "act", "fc_out", others=frozenset({"dropout"})),  # GPT-J
    Ffn("fc1", "activation_fn", "fc2"),  # Phi, OPT
    Ffn("dense_h_to_4h", "act", "dense_4h_to_h"),  # GPT-NeoX, Falcon
    Ffn("up_proj", "act_fn", "down_proj", gate="gate_proj"),  # Llama
    Ffn("up_proj", "act_fn", "down_proj"),  # Nemotron, Arcee
    Ffn("gate_up_proj", "activation_fn", "down_proj", is_fused=True),  # Phi-3, GLM
)


def _children(module: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in module.named_children())


def family_of(model: nn.Module) -> Family:
    """The structure with the model's module names.

    Raises:
        UnsupportedModelError: there is none.
    """
    body = next((body for body in _BODIES if _has_body(model, body)), None)
    if body is None:
        raise unsupported(model, f"its modules are {_names(model)}")
    blocks = list(model.get_submodule(f"{body.path}.{body.blocks}").children())
    if not blocks:
        raise unsupported(model, "it has no blocks")
    fits = [Family(body, block, ffn) for block in _BLOCKS for ffn in _FFNS]
    for number, module in enumerate(blocks):
        fits = [family for family in fits if _fits(module, family)]
        if not fits:
            inner = next((f"; of its mlp: {_names(m)}" for m in _ffns(module)), "")
            raise unsupported(model, f"the modules of block {number} are {_names(module)}{inner}")
    return fits[0]


def attention_window(model: nn.Module) -> tuple[int | None, bool]:
    """The width of the sliding window, None without one, and whether layers differ in it.

    Raises:
        UnsupportedModelError: a layer is neither full attention nor a sliding window.
    """
    hf: Any = model
    # GPT-Neo, which has the modules of GPT-2, lists its local layers in the second field.
    found = (getattr(hf.config, name, None) for name in ("layer_types", "attention_layers"))
    kinds = set(next((kinds for kinds in found if kinds), ()))
    unknown = sorted(kinds - {"full_attention", "sliding_attention", "global"})
    if unknown:
        raise unsupported(model, f"it has layers of kind {', '.join(unknown)}")
    window: int | None = getattr(hf.config, "sliding_window", None)
    if kinds == {"full_attention"}:
        window = None
    return window, len(kinds) > 1


def unsupported(model: nn.Module, what: str, **metadata: str) -> UnsupportedModelError:
    """The error for a model that cannot be edited; lists those that can be.

    Args:
        model: to name.
        what: what is not supported, a main clause.
        metadata: of the error.
    """
    name = type(model).__name__
    return UnsupportedModelError(
        f"{name} has none of the module layouts that can be edited: {what}. Choose a decoder-only "
        f"text model with the modules of one of these: {', '.join(SUPPORTED)}.",
        model_class=name,
        **metadata,
    )


def _has_body(model: nn.Module, body: Body) -> bool:
    try:
        found = model.get_submodule(body.path)
    except AttributeError:
        return False
    return {body.blocks, body.embeddings, body.norm} <= _children(found)


def _fits(module: nn.Module, family: Family) -> bool:
    block, ffn = family.block, family.ffn
    if not block.ffn:
        return _children(module) == block.children | ffn.children
    return (
        _children(module) == block.children
        and _children(module.get_submodule(block.ffn)) == ffn.children
    )


def _ffns(block: nn.Module) -> list[nn.Module]:
    return [module for name, module in block.named_children() if name == "mlp"]


def _names(module: nn.Module) -> str:
    return ", ".join(sorted(_children(module))) or "none"
