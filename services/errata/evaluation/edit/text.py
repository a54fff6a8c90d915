"""Text for statistics: from a file, or written by the model itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from errata.editing.model.causal_lm import CausalLM
from errata.engine import offline
from errata.engine.sampling import Sampling
from errata.engine.sequence import whole_text

_ROWS = 64
_LENGTH = 128


class OwnText:
    """Text that the model writes (`lane.contract.Resources`); the same at every call.

    A covariance of keys needs inputs that are typical for the model, and a language model's samples
    are such inputs.
    """

    adapters: Sequence[Path] = ()

    def __init__(self, model: CausalLM, cache_dir: Path) -> None:
        """Prepares; writes no text yet."""
        self._model = model
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
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(texts), encoding="utf-8")
        scratch.replace(path)
        return texts

    def _write(self, num_tokens: int) -> list[str]:
        tokenizer = self._model.tokenizer
        start = next(
            (x for x in (tokenizer.bos_token_id, tokenizer.eos_token_id) if x is not None),
            self._model.pad_id,
        )
        length = min(_LENGTH, self._model.max_positions - 1)
        texts: list[str] = []
        for first in range(0, max(1, num_tokens // length), _ROWS):
            sampling = [Sampling(temperature=1.0, seed=first + row) for row in range(_ROWS)]
            rows = offline.generate(self._model, [[start]] * _ROWS, length, sampling)
            texts += [" ".join(whole_text(tokenizer, ids).split()) for ids in rows]
        return [text for text in texts if text]


class FileText:
    """Text from a plain text file, one paragraph per line."""

    adapters: Sequence[Path] = ()

    def __init__(self, paragraphs: Sequence[str], cache_dir: Path) -> None:
        """Uses paragraphs that were read from the file."""
        self._paragraphs = paragraphs
        self.cache_dir = cache_dir

    def text(self) -> Sequence[str]:
        """The paragraphs."""
        return self._paragraphs
