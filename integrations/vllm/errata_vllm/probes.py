"""Which edits shaped an answer (P10), read in the workers: directions as data, hits as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from errata.editing.lane.contract import Attribution, Probe
from errata_vllm.artifacts import Columns, Part, RowArtifacts

_CHUNK = 256  # edits whose directions travel together


@dataclass(frozen=True, eq=False, slots=True)
class ProbeSet:
    """The probes of one serving state.

    Attributes:
        attribution: names the edits.
        probes: of the attribution.
        chunks: the directions of each probe, newest first. Chunks are counted from the oldest edit
            on, so that a new edit changes only the newest chunk.
    """

    attribution: Attribution
    probes: tuple[Probe, ...]
    chunks: tuple[tuple[Columns, ...], ...]

    @classmethod
    def of(cls, attribution: Attribution, earlier: ProbeSet | None) -> ProbeSet:
        """The probes of an attribution; what did not change is taken from the earlier state."""
        known = {}
        if earlier is not None:
            pairs = zip(earlier.probes, earlier.chunks, strict=True)
            known = {id(probe.directions): chunks for probe, chunks in pairs}
        probes = tuple(attribution.probes())
        chunks = [known.get(id(probe.directions)) or _chunks(probe) for probe in probes]
        return cls(attribution, probes, tuple(chunks))

    @property
    def parts(self) -> list[Part]:
        """All chunks, of one probe after the other."""
        return [chunk for chunks in self.chunks for chunk in chunks]

    def wire(self, held: RowArtifacts) -> list[dict[str, Any]]:
        """What a request tells the workers to listen to.

        Args:
            held: the artifacts of `parts`.
        """
        digest_of = {id(part): digest for digest, part in held.parts.items()}
        return [
            {
                "layer": probe.layer,
                "threshold": probe.threshold,
                "of": [digest_of[id(chunk)] for chunk in chunks],
            }
            for probe, chunks in zip(self.probes, self.chunks, strict=True)
        ]

    def edits(self, hits: Iterable[Sequence[int]]) -> tuple[str, ...]:
        """The edits that a request's hits name, newest first.

        Args:
            hits: pairs (number of a probe, number of an edit in it).
        """
        names = {self.probes[probe].names[edit] for probe, edit in hits}
        return tuple(self.attribution.newest_first(names))


@dataclass(frozen=True, eq=False, slots=True)
class OpenEar:
    """What listens to one request's prompt.

    Attributes:
        key: what the workers keep its hits under.
        prompt_end: entries of the prompt, places of a continuous prompt included.
        probes: of the request's state.
        wire: what the workers are told of them.
    """

    key: str
    prompt_end: int
    probes: ProbeSet
    wire: list[dict[str, Any]]

    @property
    def argument(self) -> dict[str, Any]:
        """The request's part of `SamplingParams.extra_args`."""
        return {"key": self.key, "prompt_end": self.prompt_end, "probes": self.wire}


def _chunks(probe: Probe) -> tuple[Columns, ...]:
    oldest_first = [
        Columns(probe.directions[:, max(0, end - _CHUNK) : end])
        for end in range(len(probe.names), 0, -_CHUNK)
    ]
    return tuple(reversed(oldest_first))
