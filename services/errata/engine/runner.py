"""Forward passes over the running rows: prefill, one step, and scoring, as whole batches.

What differs between rows (tokens, lengths, plans, sampling) is held in tensors; a pass reads the
part of its rows. A step has no loop over rows or tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from errata.editing.effects.hooks import PlanHooks
from errata.editing.effects.plan import BatchPlan, RowPlan
from errata.editing.effects.table import PlanTable
from errata.editing.lane.contract import Attribution
from errata.editing.model.causal_lm import CausalLM
from errata.engine.cache import SlotCache
from errata.engine.sampling import Sampling, SamplingTable
from errata.engine.serving_state import PendingPlan

Edits = list[tuple[str, ...]]
_SCORED_AT_ONCE = 1_024  # positions whose logits are held at once
_NO_PENDING: Mapping[int, PendingPlan] = MappingProxyType({})


class Prefilled(NamedTuple):
    """What a prefill pass yields.

    Attributes:
        logits: (B, V) after the last entry of each row.
        edits: for each row, the edits that attribution names.
        plans: completed plans, by row of the pass.
    """

    logits: Tensor
    edits: Edits
    plans: Mapping[int, RowPlan]


class Runner:
    """The rows of one model; row i of every table is row i of the cache.

    Attributes:
        lengths: (rows,) int64 on the host, cache entries, the prefix included.
        tokens: (rows, positions) int64 on the host, prompt and continuation without the prefix.
        sizes: (rows,) int64 on the host, number of tokens.
        prompt_sizes: (rows,) int64 on the host, number of prompt tokens.
    """

    def __init__(self, model: CausalLM, num_rows: int, max_length: int) -> None:
        """No row runs.

        Args:
            model: the causal LM.
            num_rows: rows that can run at once.
            max_length: longest sequence, prefix and continuation included.
        """
        self.model = model
        self.max_length = max_length
        self.hooks = PlanHooks.of(model)
        self.cache = SlotCache(model.num_layers, num_rows, max_length)
        self.plans = PlanTable(num_rows, model.d, device=model.device, dtype=model.dtype)
        self.sampling = SamplingTable(num_rows, model.device)
        self.tokens = torch.full((num_rows, max_length + 1), model.pad_id)
        self.lengths, self.sizes, self.prompt_sizes = torch.zeros(3, num_rows, dtype=torch.int64)

    def put(self, row: int, prompt_ids: Sequence[int], plan: RowPlan, sampling: Sampling) -> None:
        """Starts a row; the cache holds none of its entries yet."""
        self.tokens[row, : len(prompt_ids)] = torch.tensor(prompt_ids)
        self.sizes[row] = self.prompt_sizes[row] = len(prompt_ids)
        self.lengths[row] = 0
        self.plans.put(row, plan)
        self.sampling.put(row, sampling)

    def free(self, row: int) -> None:
        """Ends a row."""
        self.plans.free(row)

    def move(self, source: int, target: int) -> None:
        """Moves a row to a free place."""
        self.cache.move(source, target, int(self.lengths[source]))
        self.plans.move(source, target)
        self.sampling.move(source, target)
        for column in (self.tokens, self.lengths, self.sizes, self.prompt_sizes):
            column[target] = column[source]

    def prefill(
        self,
        first: int,
        chunks: Sequence[int],
        attribution: Attribution | None,
        pending: Mapping[int, PendingPlan] = _NO_PENDING,
    ) -> Prefilled:
        """Reads the next entries of the rows from `first` on, which all have one length.

        Args:
            first: the first row.
            chunks: how many entries each row reads, prefix included; at least one.
            attribution: names the edits that shaped a pass.
            pending: decisions that this pass completes, by row of the pass; all of one router,
                and on prompts that the pass reads whole.
        """
        num_rows, width = len(chunks), max(chunks)
        start = int(self.lengths[first])
        sizes = torch.tensor(chunks)
        positions = torch.arange(start, start + width).expand(num_rows, width)
        index = self.plans.token_index(first, positions).clamp(0, self.tokens.shape[1] - 1)
        ids = self.tokens[first : first + num_rows].gather(1, index)
        real = positions < start + sizes[:, None]
        self._open_window(first, num_rows, start + width, start)
        plan = self.plans.view_at(first, positions)
        is_prompt = real if plan.inserted is None else real & ~plan.inserted
        completing = self._completing(first, sizes, positions, pending)
        with attribution or nullcontext() as listening, completing as plans:
            hidden = self._forward(ids, positions, plan, cached=True)
            edits = _names(listening, is_prompt.to(self.model.device), num_rows)
        self.lengths[first : first + num_rows] += sizes
        last = hidden[torch.arange(num_rows), sizes - 1]
        return Prefilled(self.model.head(last), edits, plans)

    @contextmanager
    def _completing(
        self, first: int, sizes: Tensor, positions: Tensor, pending: Mapping[int, PendingPlan]
    ) -> Iterator[dict[int, RowPlan]]:
        """Completes pending plans in the middle of the pass; they apply from there on."""
        plans: dict[int, RowPlan] = {}
        if not pending:
            yield plans
            return
        numbers, decisions = list(pending), list(pending.values())
        router = decisions[0].router

        def complete(_: nn.Module, args: tuple[Any, ...]) -> None:
            states = self.model.by_row(args[0])[torch.arange(len(sizes)), sizes - 1]
            completed = router.during_prefill(decisions, states[numbers])
            plans.update(zip(numbers, completed, strict=True))
            for number, plan in plans.items():
                self.plans.free(first + number)
                self.plans.put(first + number, plan)
            self.hooks.follow(self.plans.view_at(first, positions))

        assert router.module is not None
        handle = router.module.register_forward_pre_hook(complete)
        try:
            yield plans
        finally:
            handle.remove()

    def step(self, first: int, num_rows: int) -> Tensor:
        """Reads the newest token of each row from `first` on.

        Returns:
            Logits (B, V) after it.
        """
        rows = slice(first, first + num_rows)
        positions = self.lengths[rows]
        ids = self.tokens[rows].gather(1, self.sizes[rows, None] - 1)
        shortest, longest = positions.aminmax()
        same = int(longest) if shortest == longest else None
        self._open_window(first, num_rows, int(longest) + 1, same, positions)
        plan = self.plans.view(first, num_rows)
        hidden = self._forward(ids, positions[:, None], plan, cached=True)
        self.lengths[rows] += 1
        logits: Tensor = self.model.head(hidden[:, -1])
        return logits

    def append(self, first: int, logits: Tensor) -> Tensor:
        """Chooses the next token of each row from `first` on and stores it.

        Returns:
            (B,) int64 on the host.
        """
        rows = slice(first, first + len(logits))
        counts = (self.sizes[rows] - self.prompt_sizes[rows]).to(logits.device)
        chosen = self.sampling.choose(logits, first, counts).cpu()
        self.tokens[rows].scatter_(1, self.sizes[rows, None], chosen[:, None])
        self.sizes[rows] += 1
        return chosen

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        plans: Sequence[RowPlan],
        attribution: Attribution | None,
    ) -> tuple[list[list[float]], list[list[int]], Edits]:
        """Log-probability and argmax at every token of each continuation; takes no row.

        Returns:
            B lists of natural log-probabilities, B lists of argmax ids, and the edits that shaped
            each row. Attribution reads the prompt only: the continuation must not claim an edit.
        """
        table = PlanTable(
            len(prompts), self.model.d, device=self.model.device, dtype=self.model.dtype
        )
        for row, wanted in enumerate(plans):
            table.put(row, wanted)
        texts = [torch.tensor([*p, *c]) for p, c in zip(prompts, continuations, strict=True)]
        tokens = pad_sequence(texts, batch_first=True, padding_value=self.model.pad_id)
        extra = torch.tensor([wanted.num_positions for wanted in plans])
        sizes = torch.tensor([len(text) for text in texts])
        prompt_sizes = torch.tensor([len(prompt) for prompt in prompts])
        width = int((sizes + extra).max())
        positions = torch.arange(width).expand(len(texts), width)
        index = table.token_index(0, positions).clamp(0, tokens.shape[1] - 1)
        plan = table.view_at(0, positions)
        is_prompt = positions < (prompt_sizes + extra)[:, None]
        if plan.inserted is not None:
            is_prompt &= ~plan.inserted
        with attribution or nullcontext() as listening:
            hidden = self._forward(tokens.gather(1, index), positions, plan, cached=False)
            edits = _names(listening, is_prompt.to(self.model.device), len(texts))
        # The entry before a token predicts it; with a prefix, that is `extra` entries later.
        ends, starts = sizes + extra - 1, prompt_sizes + extra - 1
        scored = (positions >= starts[:, None]) & (positions < ends[:, None])
        given = torch.cat([torch.tensor(c) for c in continuations]).to(hidden.device)
        log_p, own = self._rate(hidden[scored.to(hidden.device)], given)
        counts = (sizes - prompt_sizes).tolist()
        return (
            [part.tolist() for part in log_p.split(counts)],
            [part.tolist() for part in own.split(counts)],
            edits,
        )

    def _rate(self, hidden: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of the given token and argmax at each of (n, d) hidden states."""
        log_p, own = [], []
        for part, ids in zip(
            hidden.split(_SCORED_AT_ONCE), given.split(_SCORED_AT_ONCE), strict=True
        ):
            all_log_p = self.model.head(part).float().log_softmax(dim=-1)
            log_p.append(all_log_p.gather(1, ids[:, None]).squeeze(1))
            own.append(all_log_p.argmax(dim=-1))
        return torch.cat(log_p), torch.cat(own)

    def _open_window(
        self,
        first: int,
        num_rows: int,
        length: int,
        start: int | None,
        positions: Tensor | None = None,
    ) -> None:
        self.cache.reserve(length)
        window = self.cache.window
        window.first, window.num_rows, window.length, window.start = first, num_rows, length, start
        window.positions = None
        if start is None and positions is not None:
            window.positions = positions[:, None].to(self.model.device)

    def _forward(self, ids: Tensor, positions: Tensor, plan: BatchPlan, *, cached: bool) -> Tensor:
        """Hidden states (B, T, d) after the final norm."""
        model = self.model
        places = positions.to(model.device)
        length = self.cache.window.length if cached else positions.shape[1]
        body: Any = model.body
        with self.hooks.applied(plan):
            outputs = body(
                input_ids=ids.to(model.device),
                attention_mask=model.attention_mask(places, length),
                position_ids=places,
                past_key_values=self.cache if cached else None,
                use_cache=cached,
            )
        hidden: Tensor = outputs.last_hidden_state
        return hidden


def _names(listening: Attribution | None, is_prompt: Tensor, num_rows: int) -> Edits:
    if listening is None:
        return [()] * num_rows
    return [tuple(names) for names in listening.edits(is_prompt)]
