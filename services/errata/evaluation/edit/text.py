"""Text for statistics that the model itself writes."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

from errata.editing.lane.contract import Progress
from errata.editing.model.causal_lm import CausalLM
from errata.engine import offline
from errata.engine.sequence import whole_text

_ROWS = 64
_LENGTH = 128


class OwnText:
    """Text that the model writes (`lane.contract.Resources`); the same at every call.

    A covariance of keys needs inputs that are typical for the model, and a language model's samples
    are such inputs.
    """

    adapters: Sequence[Path] = ()

    def __init__(
        self, model: CausalLM, cache_dir: Path, *, on_progress: Progress | None = None
    ) -> None:
        """Prepares; writes no text yet.

        Args:
            model: writes the text, unedited.
            cache_dir: keeps the text.
            on_progress: called with the number of tokens written and the total, first with 0.
        """
        self._model = model
        self._report = on_progress or (lambda done, total: None)
        self.cache_dir = cache_dir

    def text(self) -> Sequence[str]:
        """100 · d_ff tokens, at most 200,000, sampled at temperature 1 and cached.

        Call it while the model is unedited.
        """
        num_tokens = min(100 * self._model.d_ff, 200_000)
        key = hashlib.sha256(f"{self._model.digest}|{num_tokens}".encode()).hexdigest()
        path = self.cache_dir / f"text-{key}.json"
        if path.is_file():
            return [str(item) for item in json.loads(path.read_text(encoding="utf-8"))]
        texts = self._write(num_tokens)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        scratch.write_text(json.dumps(texts), encoding="utf-8")
        scratch.replace(path)
        return texts

    def _write(self, num_tokens: int) -> list[str]:
        tokenizer = self._model.tokenizer
        length = min(_LENGTH, self._model.max_positions - 1)
        texts: list[str] = []
        starts = range(0, max(1, num_tokens // length), _ROWS)
        self._report(0, len(starts) * _ROWS * length)
        for first in starts:
            rows = offline.write(self._model, _ROWS, length, first)
            texts += [" ".join(whole_text(tokenizer, ids).split()) for ids in rows]
            self._report((first + _ROWS) * length, len(starts) * _ROWS * length)
        return [text for text in texts if text]
