"""Keys and queries of a lane model's encoder, grown to any number with the clusters that they have.

Keys are encoded from the records' statements, queries from their rephrasings and from their
locality prompts. Further keys are blends of two encoded keys of the same relation (prompts that
differ only in the subject), a and b, around the mean μ of the relation's keys:

    μ + cos θ · (a − μ) + sin θ · (b − μ),  θ uniform in 30° … 60°

A blend keeps the mean and the covariance of its cluster, and is no near copy of either key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from errata.editing.retriever import gate_file
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.lane_model import knowledge
from errata.errors import InvalidRequestError
from errata.evaluation.data.counterfact import load_counterfact

_AT_ONCE = 1_024
_BLENDED_AT_ONCE = 16_384
_ANGLES = (math.pi / 6, math.pi / 3)


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """What an encoder made of a data set.

    Attributes:
        keys: (m, d_r) fp32.
        relations: (m,) int64, cluster of each key.
        queries: (n, d_r) fp32, a rephrasing and a locality prompt in turns.
        sentinel: (d_r,) fp32.
    """

    keys: Tensor
    relations: Tensor
    queries: Tensor
    sentinel: Tensor

    def grown(self, size: int, seed: int) -> Tensor:
        """(size, d_r) keys: the encoded ones first, then blends."""
        generator = torch.Generator().manual_seed(seed)
        known, counts = len(self.keys), torch.bincount(self.relations)
        sums = torch.zeros(len(counts), self.keys.shape[1]).index_add_(0, self.relations, self.keys)
        means = sums / counts.clamp(min=1)[:, None]
        order, starts = self.relations.argsort(stable=True), counts.cumsum(0) - counts
        made = torch.empty(size, self.keys.shape[1])
        made[:known] = self.keys[:size]
        low, high = _ANGLES
        for start in range(known, size, _BLENDED_AT_ONCE):
            number = min(_BLENDED_AT_ONCE, size - start)
            a = torch.randint(known, (number,), generator=generator)
            relation = self.relations[a]
            place = torch.rand(number, generator=generator) * counts[relation]
            b = order[starts[relation] + place.long()]
            angle = low + (high - low) * torch.rand(number, 1, generator=generator)
            mean = means[relation]
            made[start : start + number] = (
                mean + angle.cos() * (self.keys[a] - mean) + angle.sin() * (self.keys[b] - mean)
            )
        return made


def encode(lane_model: Path, data: Path, num_records: int, num_queries: int) -> Encoded:
    """Encodes records of a CounterFact file.

    Args:
        lane_model: a gate, or folder of a lane model of any LLM.
        data: the file.
        num_records: at most that many become keys.
        num_queries: at most that many queries, half of them rephrasings.

    Raises:
        ModelNotFoundError, ArtifactCorruptError: about the lane model.
        InvalidRequestError: the file cannot be read, or no record has a rephrasing and a locality
            prompt.
    """
    model = gate_file.load(lane_model, torch.device("cpu"))
    records = load_counterfact(data)[:num_records]
    asked = [one for one in records if one.rephrases and one.locality][: num_queries // 2]
    if not asked:
        raise InvalidRequestError(
            f"{data} has no record with a rephrasing and a locality prompt; use CounterFact.",
            field="data",
        )
    frames = [Frames.frame(record.prompt, record.subject) for record in records]
    numbers = {frame: number for number, frame in enumerate(sorted(set(frames)))}
    statements = [knowledge(record.prompt, record.target_new) for record in records]
    prompts = [text for one in asked for text in (one.rephrases[0], one.locality[0][0])]
    with torch.inference_mode():
        keys = torch.cat([model.keys(part) for part in _parts(statements)])
        queries = torch.cat([model.queries(part) for part in _parts(prompts)])
        sentinel = model.sentinel_key()
    relations = torch.tensor([numbers[frame] for frame in frames])
    return Encoded(keys.clone(), relations, queries.clone(), sentinel.clone())


def _parts(texts: list[str]) -> list[list[str]]:
    return [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
