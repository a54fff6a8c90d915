"""Handling of new tokens: end conditions, text, log-probabilities, pieces and statistics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from errata.engine.job import ResultBuffer
from errata.engine.row import Row
from errata.engine.runner import Runner
from errata.engine.sequence import TokenChoice, text_behind_blank, whole_text
from errata.engine.statistics import Statistics


class Output:
    """The output side of the running batch: row i of every column is row i of the batch.

    Attributes:
        num_finished: generations that have finished so far.
        statistics: of all rows so far.
    """

    def __init__(self, runner: Runner, num_rows: int, results: ResultBuffer) -> None:
        """No row runs.

        Args:
            runner: chooses and stores the tokens.
            num_rows: rows that can run at once.
            results: takes the pieces.
        """
        self.num_finished = 0
        self.statistics = Statistics()
        self._runner = runner
        self._results = results
        self._end_ids = torch.tensor(runner.model.end_ids, dtype=torch.int64)
        self._limits = torch.zeros(num_rows, dtype=torch.int64)  # sizes at which rows end
        self._stop_at_eos = torch.ones(num_rows, dtype=torch.bool)
        self._inspected = torch.zeros(num_rows, dtype=torch.bool)
        self._arrived = np.zeros(num_rows)
        self._last_token = np.full(num_rows, np.nan)

    def put(self, index: int, row: Row) -> None:
        """Starts a row."""
        request = row.request
        self._limits[index] = len(request.prompt_ids) + request.max_tokens
        self._stop_at_eos[index] = not request.ignore_eos
        self._inspected[index] = row.is_inspected
        self._arrived[index], self._last_token[index] = row.job.arrived, np.nan

    def move(self, source: int, target: int) -> None:
        """Copies a row's columns to another row."""
        for column in (self._limits, self._stop_at_eos, self._inspected):
            column[target] = column[source]
        for times in (self._arrived, self._last_token):
            times[target] = times[source]

    def take(self, rows: Sequence[Row], first: int, logits: Tensor) -> Iterator[int]:
        """Chooses and stores a token for each row from `first` on, and sends what is ready.

        Args:
            rows: of the batch.
            first: index of the first row.
            logits: (B, V).

        Yields:
            The index of each row that has ended, in descending order, once its last piece is sent.
            The row can be removed then, before the next one is handled.
        """
        chosen = self._runner.append(first, logits)
        part = slice(first, first + len(logits))
        now = time.monotonic()
        self.statistics.note_tokens(self._arrived[part], self._last_token[part], now)
        self._last_token[part] = now
        at_limit = self._runner.sizes[part] >= self._limits[part]
        at_eos = torch.isin(chosen, self._end_ids) & self._stop_at_eos[part]
        ended: dict[int, str] = {}
        for offset in (at_limit | at_eos).nonzero().squeeze(-1).tolist():
            ended[first + offset] = "stop" if at_eos[offset] else "length"
        inspected = self._inspected[part].nonzero().squeeze(-1)
        if len(inspected):
            self._inspect(rows, first, inspected.tolist(), chosen, logits, ended)
        for index in sorted(ended, reverse=True):
            self._end(rows[index], index, ended[index])
            yield index

    def _inspect(
        self,
        rows: Sequence[Row],
        first: int,
        offsets: Sequence[int],
        chosen: Tensor,
        logits: Tensor,
        ended: dict[int, str],
    ) -> None:
        """Text, stop texts and log-probabilities of rows that asked for them, token by token."""
        # The end-of-text token is neither text nor a token of the answer.
        texts = [offset for offset in offsets if ended.get(first + offset) != "stop"]
        _note_choices(rows, first, texts, chosen, logits)
        ids = chosen.tolist()
        for offset in texts:
            row, index = rows[first + offset], first + offset
            new = row.text.push(ids[offset])
            if row.text.stopped:
                ended[index] = "stop"
            if row.request.streaming and index not in ended and new:
                self._results.put(row.job, row.take_piece(new, "", len(row.text.ids)))
            else:
                row.unsent += new

    def _end(self, row: Row, index: int, reason: str) -> None:
        """Sends the last piece of a row."""
        if row.is_inspected:
            num_tokens = len(row.text.ids)
            text = row.unsent + row.text.finish()
            if row.text.stopped:  # perhaps by text that had been held back
                reason = "stop"
        else:
            size = int(self._runner.sizes[index]) - (reason == "stop")  # without end of text
            ids = self._runner.tokens[index, len(row.request.prompt_ids) : size].tolist()
            num_tokens = len(ids)
            decode = text_behind_blank if row.request.drops_blank else whole_text
            text = decode(self._runner.model.tokenizer, ids)
        self._results.put(row.job, row.take_piece(text, reason, num_tokens))
        self.num_finished += 1
        seconds = time.monotonic() - self._arrived[index]
        self.statistics.note_end(reason, len(row.request.prompt_ids), num_tokens, seconds)


def _note_choices(
    rows: Sequence[Row], first: int, offsets: Sequence[int], chosen: Tensor, logits: Tensor
) -> None:
    """Adds the tokens' log-probabilities to the rows that asked for them."""
    asking = [o for o in offsets if rows[first + o].request.num_alternatives is not None]
    if not asking:
        return
    most = max(rows[first + o].request.num_alternatives or 0 for o in asking)
    log_p = logits[asking].float().log_softmax(dim=-1)
    own = log_p.gather(1, chosen[asking, None].to(log_p.device)).squeeze(1).tolist()
    values, ids = log_p.topk(most, dim=-1)
    ranked = zip(asking, own, values.tolist(), ids.tolist(), strict=True)
    for offset, log_probability, top_values, top_ids in ranked:
        row = rows[first + offset]
        pairs = tuple(zip(top_ids, top_values, strict=True))[: row.request.num_alternatives]
        row.choices.append(TokenChoice(int(chosen[offset]), log_probability, pairs))
