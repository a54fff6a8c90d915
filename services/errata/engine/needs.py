"""What an engine needs in addition to the LLM and its lanes: keys, values and a pass's tensors.

Symbols: R rows that run at once, C entries of each row's block, M the longest sequence, V token
ids, d and d_ff widths, b bytes of one number.
"""

from __future__ import annotations

from errata.editing.lane.needs import FP32, INT64, Need
from errata.editing.model.shape import ModelShape
from errata.engine.cache import KEPT_CAPACITY, grown
from errata.engine.limits import EngineLimits


def engine_needs(model: ModelShape, limits: EngineLimits) -> list[Need]:
    """Keys and values for the longest rows, and the tensors of a pass.

    A block has room for C entries of every row: C doubles from 128 until the longest row fits, and
    is at most M. While a layer's block grows, its old block exists too. A pass over the prompts
    of all R rows reads `prefill_tokens` padded tokens and holds about 4·d + 3·d_ff numbers for
    each, and a mask over C entries.
    """
    longest = max_length(model, limits)
    entry = model.kv_width * model.element_bytes
    capacity = min(grown(0, longest), longest)
    kept = min(capacity, KEPT_CAPACITY)
    tokens = max(limits.prefill_tokens, limits.max_rows)
    inner = tokens * (4 * model.d + 3 * model.d_ff) * model.element_bytes
    logits = limits.max_rows * model.num_embeddings * (model.element_bytes + 2 * FP32)
    return [
        Need("keys and values that stay", limits.max_rows * kept * entry, "R·min(C, 1024)·kv·b"),
        Need(
            "keys and values of the longest rows",
            limits.max_rows * (capacity - kept) * entry
            + limits.max_rows * capacity * entry // model.num_layers,
            "R(C − 1024)·kv·b, and one layer's block again",
            during="request",
        ),
        Need("tokens of rows", limits.max_rows * (longest + 1) * INT64, "R(M + 1)·8", "host"),
        Need(
            "a pass",
            inner + tokens * capacity * model.element_bytes,
            "tokens((4·d + 3·d_ff)·b + C·b)",
            during="request",
            is_estimate=True,
        ),
        Need("logits", logits, "R·V(b + 8)", during="request", is_estimate=True),
    ]


def max_length(model: ModelShape, limits: EngineLimits) -> int:
    """M: the longest sequence that the engine accepts."""
    return limits.longest(model.max_positions)
