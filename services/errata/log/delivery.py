"""One message of a subscription, and the check that nothing is missing before it."""

from __future__ import annotations

from dataclasses import dataclass

from errata.errors import LogBehindWitnessError
from errata.log.chain import ChainedEntry, Position


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message from the log service; its entries are not verified yet.

    Attributes:
        log_id: the log's identity.
        head_seq: the log's head when the message was sent.
        entries: in order. A progress message has none: everything up to `head_seq` was
            delivered before it.
    """

    log_id: str
    head_seq: int
    entries: tuple[ChainedEntry, ...]

    def check_follows(self, log_id: str, received: Position) -> None:
        """Returns if the message can follow the entries received so far.

        Args:
            log_id: of the followed log; empty accepts any log.
            received: the last entry received.

        Raises:
            LogBehindWitnessError: the message is from another log, or entries are missing.
        """
        if log_id and self.log_id != log_id:
            raise LogBehindWitnessError(
                f"the log is {self.log_id}, but this replica followed {log_id}: the log was "
                "restored or replaced. Restart the replica.",
                log_id=self.log_id,
                expected_log_id=log_id,
            )
        if self.head_seq < received.seq:
            raise LogBehindWitnessError(
                f"the log's head is {self.head_seq}, but this replica received entry "
                f"{received.seq}: the log lost entries.",
                head_seq=self.head_seq,
                applied_seq=received.seq,
            )
        if not self.entries and self.head_seq > received.seq:
            raise LogBehindWitnessError(
                f"the log reports that it delivered all entries up to {self.head_seq}, but entry "
                f"{received.seq + 1} did not arrive: entries are missing.",
                head_seq=self.head_seq,
                applied_seq=received.seq,
            )
