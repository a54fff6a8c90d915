"""Verifies a log entry by entry: the chain, the signatures, the artifacts."""

from __future__ import annotations

import hashlib

from errata.artifacts.source import check_content, check_size, other_size
from errata.artifacts.store import ArtifactStore
from errata.errors import CommitNotTrustedError, ErrataError, LogBehindWitnessError
from errata.launch.verify.report import CHECKS, Problem, Verification
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsReviewed,
    Entry,
    EntryVoided,
    KeysTrusted,
    LaneCompacted,
    LaneModelCommitted,
    LanePolicySet,
    SnapshotTaken,
    artifacts_of,
)
from errata.log.payload_convert import decode
from errata.log.signing.trust import Pins, TrustState


class Verifier:
    """Takes the entries of a log in order; `report` says what was found."""

    def __init__(self, store: ArtifactStore, *, max_bytes: int, pins: Pins | None = None) -> None:
        """Has seen nothing yet.

        Args:
            store: should hold every artifact that the log names.
            max_bytes: limit for one artifact.
            pins: limit how trust may begin.
        """
        self._store = store
        self._max_bytes = max_bytes
        self._trust = TrustState(pins)
        self._position = ORIGIN
        self._problems: list[Problem] = []
        self._checked = dict.fromkeys(CHECKS, 0)
        self._seen: set[ArtifactRef] = set()
        self._unsigned = 0
        self._refused_at = 0  # position of the commit at which readers stop
        self._behind: list[Entry] = []  # entries after it, to be checked if it is voided

    async def take(self, stored: ChainedEntry) -> None:
        """Checks the next entry."""
        self._check_chain(stored)
        try:
            entry = decode(stored)
        except ErrataError as error:
            self._note(stored.seq, "chain", error)
            return
        self._check_trust(entry)
        for ref in artifacts_of(entry.payload):
            if ref not in self._seen:
                self._seen.add(ref)
                await self._check_artifact(entry.seq, ref)

    def expect(self, head: Position, where: str) -> None:
        """Checks that the log holds a position that somebody else saw.

        Call it before the entry after `head` is taken.

        Args:
            head: an acknowledged position.
            where: who saw it.
        """
        if head != self._position:
            error = LogBehindWitnessError(
                f"{where} has seen entry {head.seq} with the chain digest "
                f"{head.chain_digest.hex()}, which this log does not have: entries are lost or "
                "were changed. Restore Redis from an intact copy."
            )
            self._note(head.seq, "chain", error)

    def report(self, source: str) -> Verification:
        """What was found so far.

        Args:
            source: where the entries came from.
        """
        problems = sorted(self._problems, key=lambda problem: problem.seq)
        return Verification(
            source=source,
            head_seq=self._position.seq,
            chain_digest=self._position.chain_digest.hex(),
            checked=dict(self._checked),
            unsigned=self._unsigned,
            trusted_keys=tuple(sorted(self._trust.keys)),
            problems=tuple(problems),
            ok=not problems,
        )

    def _check_chain(self, stored: ChainedEntry) -> None:
        self._checked["chain"] += 1
        try:
            verify_run(self._position, [stored])
        except LogBehindWitnessError as error:
            self._note(stored.seq, "chain", error)
        # What follows is compared with what is stored, so that one break is one problem.
        self._position = Position(stored.seq, stored.chain_digest)

    def _check_trust(self, entry: Entry) -> None:
        """Stops at a commit that cannot be trusted, as a replica would, until it is voided."""
        if self._refused_at:
            self._behind.append(entry)
            if isinstance(entry.payload, EntryVoided) and entry.payload.seq == self._refused_at:
                self._forgive()
            return
        before = self._trust
        try:
            self._trust = before.after(entry)
        except CommitNotTrustedError as error:
            self._refused_at = entry.seq
            self._note(entry.seq, "signatures", error)
        if isinstance(entry.payload, EditsCommitted | LaneModelCommitted | LaneCompacted):
            self._unsigned += not before.has_begun
            self._checked["signatures"] += before.has_begun
        elif isinstance(entry.payload, KeysTrusted | SnapshotTaken | LanePolicySet | EditsReviewed):
            self._checked["signatures"] += 1

    def _forgive(self) -> None:
        """Readers skip the refused commit: what comes behind it counts as if it were absent."""
        self._problems = [
            problem
            for problem in self._problems
            if problem.seq != self._refused_at or problem.check == "chain"
        ]
        self._refused_at, behind, self._behind = 0, self._behind, []
        for entry in behind:
            self._check_trust(entry)

    async def _check_artifact(self, seq: int, ref: ArtifactRef) -> None:
        self._checked["artifacts"] += 1
        hasher, length = hashlib.sha256(), 0
        try:
            check_size(ref.digest, ref.size_bytes, self._max_bytes)
            async for chunk in self._store.chunks(ref.digest):
                hasher.update(chunk)
                length += len(chunk)
                if length > ref.size_bytes:
                    break
            if length != ref.size_bytes:
                raise other_size(ref.digest, ref.size_bytes, "the artifact store")
            check_content(ref.digest, hasher.hexdigest(), "the artifact store")
        except ErrataError as error:
            self._note(seq, "artifacts", error)

    def _note(self, seq: int, check: str, error: ErrataError) -> None:
        self._problems.append(Problem(seq, check, error.message))
