"""Model families: the role of each module of a causal language model, by module names alone.

A family is a set of module names; class, config fields and model name are not considered. A block
with an additional module (cross-attention, a norm after the FFN, a mixture of experts) computes
something else and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from errata.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Family:
    """Module names of one family of models.

    Attributes:
        body: the decoder without its head, relative to the model.
        blocks: the list of blocks, relative to the body, as are `embeddings` and `norm`.
        embeddings: token embeddings.
        norm: the final norm.
        block_children: exactly the modules of every block.
        attention: the attention, relative to a block, as is `ffn`.
        ffn: the feed-forward network.
        ffn_children: exactly the modules of every FFN, including those that only regularise.
        up: the FFN's first projection, relative to `ffn`, as are `gate`, `activation` and `down`.
        gate: the projection that gates `up` through the activation; None if the FFN has no gate.
        activation: the FFN's nonlinearity.
        down: the FFN's last projection.
        transposed: `down` stores (d_ff, d) instead of (d, d_ff).
    """

    body: str
    blocks: str
    embeddings: str
    norm: str
    block_children: frozenset[str]
    attention: str
    ffn: str
    ffn_children: frozenset[str]
    up: str
    gate: str | None
    activation: str
    down: str
    transposed: bool


GPT2 = Family(
    body="transformer",
    blocks="h",
    embeddings="wte",
    norm="ln_f",
    block_children=frozenset({"ln_1", "attn", "ln_2", "mlp"}),
    attention="attn",
    ffn="mlp",
    ffn_children=frozenset({"c_fc", "c_proj", "act", "dropout"}),
    up="c_fc",
    gate=None,
    activation="act",
    down="c_proj",
    transposed=True,
)

GPTJ = Family(
    body="transformer",
    blocks="h",
    embeddings="wte",
    norm="ln_f",
    block_children=frozenset({"ln_1", "attn", "mlp"}),
    attention="attn",
    ffn="mlp",
    ffn_children=frozenset({"fc_in", "fc_out", "act", "dropout"}),
    up="fc_in",
    gate=None,
    activation="act",
    down="fc_out",
    transposed=False,
)

# Mistral, Qwen2 and Qwen3 have the same module names; they differ inside the attention.
LLAMA = Family(
    body="model",
    blocks="layers",
    embeddings="embed_tokens",
    norm="norm",
    block_children=frozenset(
        {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    ),
    attention="self_attn",
    ffn="mlp",
    ffn_children=frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"}),
    up="up_proj",
    gate="gate_proj",
    activation="act_fn",
    down="down_proj",
    transposed=False,
)

FAMILIES: tuple[Family, ...] = (GPT2, GPTJ, LLAMA)


def _children(module: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in module.named_children())


def _fits(model: nn.Module, family: Family) -> bool:
    body = getattr(model, family.body, None)
    if body is None or not {family.blocks, family.embeddings, family.norm} <= _children(body):
        return False
    blocks = list(getattr(body, family.blocks).children())
    return bool(blocks) and all(
        _children(block) == family.block_children
        and _children(block.get_submodule(family.ffn)) == family.ffn_children
        for block in blocks
    )


def family_of(model: nn.Module) -> Family:
    """The family with the model's module names.

    Raises:
        UnsupportedModelError: there is none.
    """
    for family in FAMILIES:
        if _fits(model, family):
            return family
    raise UnsupportedModelError(
        f"{type(model).__name__} has none of the module layouts that can be edited (GPT-2, GPT-J, "
        "or Llama, which Mistral and Qwen2/3 share). Choose a decoder-only model of one of them.",
        model_class=type(model).__name__,
    )
