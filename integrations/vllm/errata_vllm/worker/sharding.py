"""A rank's part of an artifact: the slices that belong to its neurons of the FFNs."""

from __future__ import annotations

from errata.editing.effects.expert import Expert
from errata.editing.effects.mixture import LoraBank, Mixture, Place
from errata_vllm.artifacts import Part
from errata_vllm.worker.structure import Structure


def shard(part: Part, structure: Structure) -> Part:
    """The rank's part; continuous prompts are whole on every rank."""
    if structure.num_ranks == 1:
        return part
    match part:
        case Mixture():
            banks = {place: _bank(place, bank, structure) for place, bank in part.banks.items()}
            return Mixture(part.num_experts, banks)
        case Expert():
            neurons = structure.slice_ff(part.up.shape[0])
            return Expert(
                part.layer, part.up[neurons].contiguous(), part.down[:, neurons].contiguous()
            )
        case _:
            return part


def _bank(place: Place, bank: LoraBank, structure: Structure) -> LoraBank:
    if place[1] == "down":
        return LoraBank(bank.a[:, structure.slice_ff(bank.a.shape[1])].contiguous(), bank.b)
    return LoraBank(bank.a, bank.b[structure.slice_ff(bank.b.shape[0])].contiguous())
