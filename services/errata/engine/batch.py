"""The running batch: which request is which row, and what becomes of its tokens.

Rows lie side by side in order of (serving, still prefilling): rows under one set of weights are
one slice, and at most the newest row is not done with its prompt. A row that leaves is filled
from the end of its group, and that place from the end of the next.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from errata.editing.effects.plan import RowPlan
from errata.engine.job import Job, Outbox
from errata.engine.runner import Decision, Runner
from errata.engine.sequence import (
    GenerationRequest,
    GrowingText,
    LateRoute,
    Piece,
    ServingState,
    TokenChoice,
    text_behind_blank,
    whole_text,
)
from errata.engine.statistics import Statistics


@dataclass(eq=False, slots=True)
class Weights:
    """The down projections of one weight version, as pointers."""

    tensors: list[Tensor]


@dataclass(eq=False, slots=True)
class Row:
    """A generation in the running batch."""

    job: Job
    request: GenerationRequest
    serving: ServingState
    weights: Weights
    plan: RowPlan
    text: GrowingText
    weights_version: int
    num_left: int  # entries that prefill has not read yet
    late: LateRoute | None = None  # decides on the row while its prompt is read
    edits: tuple[str, ...] = ()
    choices: list[TokenChoice] = field(default_factory=list)
    pending: str = ""  # text that was made and not sent yet

    @property
    def group(self) -> tuple[int, bool]:
        """Rows of one group lie side by side, groups in ascending order."""
        return (self.weights_version, self.num_left > 0)

    @property
    def watched(self) -> bool:
        """Whether each token has to be looked at when it is made."""
        r = self.request
        return r.streaming or bool(r.stop) or r.num_alternatives is not None


class RunningBatch:
    """Rows from their admission to their last token."""

    def __init__(self, runner: Runner, num_rows: int, outbox: Outbox) -> None:
        """No row runs."""
        self.rows: list[Row] = []
        self.num_finished = 0
        self._runner = runner
        self._max_rows = num_rows
        self._outbox = outbox
        self._end_ids = torch.tensor(runner.model.end_ids, dtype=torch.int64)
        self._limits = torch.zeros(num_rows, dtype=torch.int64)  # sizes at which rows end
        self._stop_at_eos = torch.ones(num_rows, dtype=torch.bool)
        self._watched = torch.zeros(num_rows, dtype=torch.bool)
        self.statistics = Statistics()
        self._asked = np.zeros(num_rows)
        self._last_token = np.full(num_rows, np.nan)

    @property
    def num_free(self) -> int:
        """Rows that may still be admitted."""
        return self._max_rows - len(self.rows)

    @property
    def is_prefilling(self) -> bool:
        """Whether a row has not read its whole prompt yet."""
        return bool(self.rows) and self.rows[-1].num_left > 0

    def admit(
        self,
        job: Job,
        serving: ServingState,
        weights: Weights,
        weights_version: int,
        plan: RowPlan,
        late: LateRoute | None = None,
    ) -> None:
        """Adds a row at the end.

        Args:
            job: with a generation request.
            serving: what it is computed under, from first to last token.
            weights: those of the serving state.
            weights_version: grows with each change of weights.
            plan: the row's for life, or until `late` has decided.
            late: decides while the prompt is read.
        """
        request = job.request
        assert isinstance(request, GenerationRequest)
        index, size = len(self.rows), len(request.prompt_ids)
        text = GrowingText(self._runner.model.tokenizer, request.stop, request.drops_blank)
        row = Row(
            job,
            request,
            serving,
            weights,
            plan,
            text,
            weights_version,
            size + plan.num_positions,
            late,
        )
        self.rows.append(row)
        self._runner.put(index, request.prompt_ids, plan, request.sampling)
        self._limits[index] = size + request.max_tokens
        self._stop_at_eos[index] = not request.ignore_eos
        self._watched[index] = row.watched
        self._asked[index], self._last_token[index] = job.asked, np.nan

    def prefill(self, budget: int) -> None:
        """Reads prompts of the rows that are not done with theirs.

        Args:
            budget: entries of one prompt that one pass may read; a longer one takes several.
        """
        first = next(index for index, row in enumerate(self.rows) if row.num_left)
        head, waiting = self.rows[first], self.rows[first:]
        chunks = [row.num_left for row in waiting]
        if self._runner.lengths[first] or head.num_left > budget:
            waiting, chunks = [head], [min(head.num_left, budget)]  # a long prompt, bit by bit
        self._runner.model.use_down_weights(head.weights.tensors)
        logits, edits = self._runner.prefill(
            first, chunks, head.serving.attribution, _decision(waiting)
        )
        for row, chunk, names in zip(waiting, chunks, edits, strict=True):
            row.num_left -= chunk
            row.edits = tuple(dict.fromkeys((*row.plan.edits, *row.edits, *names)))
        if not head.num_left:
            self._take(first, logits)

    def step(self) -> None:
        """Makes one token for every row that has read its prompt."""
        ready = [row for row in self.rows if not row.num_left]
        first = len(ready)
        # From the last slice to the first: a row that leaves moves only rows behind it.
        for weights, group in itertools.groupby(reversed(ready), key=lambda row: row.weights):
            size = sum(1 for _ in group)
            first -= size
            self._runner.model.use_down_weights(weights.tensors)
            self._take(first, self._runner.step(first, size))

    @torch.inference_mode()
    def drop(self, gone: Iterable[Row]) -> None:
        """Ends rows without a word to those who asked."""
        for row in gone:
            self._leave(self.rows.index(row))

    def expired(self) -> list[Row]:
        """Rows that nobody waits for any more, cancelled or past their deadline."""
        now = time.monotonic()
        return [row for row in self.rows if row.job.cancelled or row.request.deadline < now]

    def _take(self, first: int, logits: Tensor) -> None:
        """Chooses and writes down a token for each row from `first` on; ends those that end."""
        num_rows = len(logits)
        chosen = self._runner.append(first, logits)
        rows = slice(first, first + num_rows)
        now = time.monotonic()
        self.statistics.note_tokens(self._asked[rows], self._last_token[rows], now)
        self._last_token[rows] = now
        at_limit = self._runner.sizes[rows] >= self._limits[rows]
        at_eos = torch.isin(chosen, self._end_ids) & self._stop_at_eos[rows]
        ended: dict[int, str] = {}
        for offset in (at_limit | at_eos).nonzero().squeeze(-1).tolist():
            ended[first + offset] = "stop" if at_eos[offset] else "length"
        watched = self._watched[rows].nonzero().squeeze(-1)
        if len(watched):
            self._watch(first, watched.tolist(), chosen, logits, ended)
        for index in sorted(ended, reverse=True):
            self._end(index, ended[index])

    def _watch(
        self,
        first: int,
        offsets: Sequence[int],
        chosen: Tensor,
        logits: Tensor,
        ended: dict[int, str],
    ) -> None:
        """Text, stop texts and log-probabilities of rows that asked for them, token by token."""
        # The end-of-text token is no text, and no token of the answer.
        texts = [offset for offset in offsets if ended.get(first + offset) != "stop"]
        self._note_choices(first, texts, chosen, logits)
        ids = chosen.tolist()
        for offset in texts:
            row, index = self.rows[first + offset], first + offset
            new = row.text.push(ids[offset])
            if row.text.stopped:
                ended[index] = "stop"
            if row.request.streaming and index not in ended and new:
                self._send(row, new, "", len(row.text.ids))
            else:
                row.pending += new

    def _note_choices(
        self, first: int, offsets: Sequence[int], chosen: Tensor, logits: Tensor
    ) -> None:
        asking = [o for o in offsets if self.rows[first + o].request.num_alternatives is not None]
        if not asking:
            return
        most = max(self.rows[first + o].request.num_alternatives or 0 for o in asking)
        log_p = logits[asking].float().log_softmax(dim=-1)
        own = log_p.gather(1, chosen[asking, None].to(log_p.device)).squeeze(1).tolist()
        values, ids = log_p.topk(most, dim=-1)
        ranked = zip(asking, own, values.tolist(), ids.tolist(), strict=True)
        for offset, log_probability, top_values, top_ids in ranked:
            row = self.rows[first + offset]
            pairs = tuple(zip(top_ids, top_values, strict=True))[: row.request.num_alternatives]
            row.choices.append(TokenChoice(int(chosen[offset]), log_probability, pairs))

    def _end(self, index: int, reason: str) -> None:
        row = self.rows[index]
        if row.watched:
            num_tokens = len(row.text.ids)
            text = row.pending + row.text.finish()
            if row.text.stopped:  # perhaps by what had been held back
                reason = "stop"
        else:
            size = int(self._runner.sizes[index]) - (reason == "stop")  # without end of text
            ids = self._runner.tokens[index, len(row.request.prompt_ids) : size].tolist()
            num_tokens = len(ids)
            decoded = text_behind_blank if row.request.drops_blank else whole_text
            text = decoded(self._runner.model.tokenizer, ids)
        self._send(row, text, reason, num_tokens)
        self.num_finished += 1
        seconds = time.monotonic() - self._asked[index]
        num_prompt = len(row.request.prompt_ids)
        self.statistics.note_end(reason, num_prompt, num_tokens, seconds)
        self._leave(index)

    def _send(self, row: Row, text: str, reason: str, num_tokens: int) -> None:
        version, choices = row.serving.version, tuple(row.choices)
        row.choices.clear()
        row.pending = ""
        num_prompt = len(row.request.prompt_ids)
        piece = Piece(
            text, num_prompt, num_tokens, reason, version, row.edits, row.plan.cut, choices
        )
        self._outbox.put(row.job, piece)

    def _leave(self, index: int) -> None:
        self._runner.free(index)
        hole, last = index, len(self.rows) - 1
        group = self.rows[index].group
        while True:
            end = hole
            while end < last and self.rows[end + 1].group == group:
                end += 1
            if end != hole:
                self._move(end, hole)
            hole = end
            if hole == last:
                break
            group = self.rows[hole + 1].group
        self.rows.pop()

    def _move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]
        self._runner.move(source, target)
        for column in (self._limits, self._stop_at_eos, self._watched):
            column[target] = column[source]
        for times in (self._asked, self._last_token):
            times[target] = times[source]


def _decision(rows: Sequence[Row]) -> Decision | None:
    """What decides on those of a prefill's rows that are not routed to the end yet."""
    open_rows = {number: row for number, row in enumerate(rows) if row.late is not None}
    late = next((row.late for row in open_rows.values()), None)
    if late is None:
        return None

    def plans(states: Tensor) -> dict[int, RowPlan]:
        numbers = list(open_rows)
        made = late.late(
            [rows[number].request for number in numbers],
            [rows[number].plan for number in numbers],
            states[numbers],
        )
        for number, plan in zip(numbers, made, strict=True):
            rows[number].plan, rows[number].late = plan, None
        return dict(zip(numbers, made, strict=True))

    return Decision(late.module, plans)
