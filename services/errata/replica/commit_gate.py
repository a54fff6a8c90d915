"""The gate before every replica: it lets a commit pass only if a trusted key signed it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from errata.errors import CommitNotTrustedError, StartupError
from errata.log.entries import Entry, SnapshotTaken
from errata.log.signing.keys import verifies
from errata.log.signing.manifest import manifest_of
from errata.log.signing.trust import Pins, TrustState
from errata.platform.settings import FollowerSettings

_PIN = re.compile(r"[0-9a-f]{16,64}")


class CommitGate:
    """Trust as of the entries that passed.

    Attributes:
        state: after the last entry that passed.
    """

    def __init__(self, pins: Pins | None = None) -> None:
        """Starts before the first entry.

        Args:
            pins: limit how trust may begin; None trusts the log's first trust entry.
        """
        self.state = TrustState(pins)

    @classmethod
    def of(cls, settings: FollowerSettings) -> CommitGate:
        """The gate that the settings ask for.

        Raises:
            StartupError: the file of the pinned keys cannot be used.
        """
        return cls(read_pins(settings))

    def check(self, entry: Entry) -> Callable[[], object] | None:
        """Checks the next entry; call the result once the entry has been applied.

        Returns:
            What records that the entry passed; None if it does not matter to trust.

        Raises:
            CommitNotTrustedError: the entry must be signed by a trusted key and is not.
        """
        before = self.state
        after = before.after(entry)
        if after is before:
            return None

        def record() -> None:
            self.state = after

        return record

    def let_pass(self, entry: Entry) -> None:
        """Checks and records an entry that is not applied here.

        Raises:
            CommitNotTrustedError: as `check`.
        """
        self.state = self.state.after(entry)

    def state_of(self, state: TrustState, named: SnapshotTaken) -> TrustState:
        """Trust as of a snapshot, if it can be believed before the log's first entry was read.

        Without pins, the snapshot is believed as the log's first trust entry would be. With pins,
        its entry must be signed by a key that they name: who may sign commits may also say what
        the commits before came to.

        Args:
            state: trust in the snapshot's fold.
            named: the entry that names the snapshot.

        Raises:
            CommitNotTrustedError: no pinned key signed the entry.
        """
        pins = self.state.pins
        if pins is None:
            return replace(state, pins=None)
        signature = named.signature
        if signature is None and not state.has_begun and named.seq <= pins.unsigned_until:
            return replace(state, pins=pins)  # as its commits, which may be unsigned, too
        key = state.keys.get(signature.key_id) if signature is not None else None
        if (
            signature is None
            or key is None
            or not pins.name(key)
            or not verifies(key, signature.value, manifest_of(named, "", signature.previous))
        ):
            raise CommitNotTrustedError(
                f"the snapshot at entry {named.seq} is not signed by a key that "
                "trusted_keys_file names. Add the writer's present key to that file; `errata log` "
                "shows its id.",
                seq=named.seq,
            )
        return replace(state, pins=pins)


def read_pins(settings: FollowerSettings) -> Pins | None:
    """The pinned keys: one key id or fingerprint a line, and comments after `#`.

    Returns:
        The pins; None if no file is set.

    Raises:
        StartupError: the file cannot be read, is empty, or a line is neither.
    """
    path = settings.trusted_keys_file
    if path is None:
        return None
    lines = [line.partition("#")[0].strip().lower() for line in _lines(path)]
    keys = frozenset(line for line in lines if line)
    if wrong := sorted(key for key in keys if not _PIN.fullmatch(key)):
        raise StartupError(
            f"trusted_keys_file {path}: {wrong[0][:80]!r} is neither a key id (16 hex digits) nor "
            "a fingerprint (64); `errata keys show FILE` prints both."
        )
    if not keys:
        raise StartupError(
            f"trusted_keys_file {path} names no key; `errata keys show FILE` prints the id."
        )
    return Pins(keys, settings.unsigned_until_seq)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"trusted_keys_file {path} cannot be read: {error}.") from error
