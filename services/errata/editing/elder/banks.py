"""Banks: every so many edits a lane starts new experts, and the earlier ones never change again.

Ours; the paper has one bank. What all edits share, they also overwrite: each further batch costs
earlier edits some of their reliability, replay or not. An edit that is learned in a bank which is
then frozen keeps its answers, bit for bit, since the claiming edit names its bank. The price is
memory, which grows by a bank for every `bank_edits` edits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from errata.editing.artifact import tensor_bytes
from errata.editing.effects.mixture import Mixture
from errata.editing.elder.experts import Experts


@dataclass(frozen=True, eq=False, slots=True)
class FrozenBank:
    """Experts that no later fit changes, and the edits that they learned.

    Attributes:
        experts: LoRAs in host memory, routers on the LLM's device.
        mixture: the LoRAs in the form that hooks add.
        edits: names of its active edits; their order has no meaning.
        digest: SHA-256 of the experts' tensors.
    """

    experts: Experts
    mixture: Mixture
    edits: tuple[str, ...]
    digest: bytes

    @classmethod
    def of(cls, experts: Experts, mixture: Mixture, edits: tuple[str, ...]) -> FrozenBank:
        """Freezes experts; `mixture` is theirs, on the LLM's device."""
        state = hashlib.sha256()
        for tensor in experts.tensors().values():
            state.update(tensor_bytes(tensor))
        return cls(experts.with_loras_in_host_memory(), mixture, edits, state.digest())


@dataclass(frozen=True, eq=False, slots=True)
class FrozenBanks:
    """The frozen banks of a lane, oldest first; never modified, only replaced.

    Attributes:
        banks: each has an active edit.
        bank_of: edit → its bank; the edits of the bank that still learns are not here.
    """

    banks: tuple[FrozenBank, ...] = ()
    bank_of: Mapping[str, FrozenBank] = field(default_factory=dict)

    @classmethod
    def joined(cls, banks: Collection[FrozenBank]) -> FrozenBanks:
        """These banks, without those that have no edit left."""
        kept = tuple(bank for bank in banks if bank.edits)
        return cls(kept, {name: bank for bank in kept for name in bank.edits})

    def adding(self, banks: Sequence[FrozenBank]) -> FrozenBanks:
        """These banks and newer ones."""
        return FrozenBanks.joined((*self.banks, *banks)) if banks else self

    def without(self, edits: Collection[str]) -> FrozenBanks:
        """The banks as if `edits` had never been learned in them; all experts stay as they are."""
        gone = set(edits)
        if gone.isdisjoint(self.bank_of):
            return self
        return FrozenBanks.joined([_without(bank, gone) for bank in self.banks])

    def digests(self) -> Iterator[bytes]:
        """The digest of each bank, and of which edits it has.

        The order in which a bank got its edits is not part of it: a snapshot lists the lane's edits
        in another order if a new lane model's commit did.
        """
        for bank in self.banks:
            yield bank.digest
            yield repr(tuple(sorted(bank.edits))).encode()


def _without(bank: FrozenBank, gone: Collection[str]) -> FrozenBank:
    kept = tuple(name for name in bank.edits if name not in gone)
    return FrozenBank(bank.experts, bank.mixture, kept, bank.digest)
