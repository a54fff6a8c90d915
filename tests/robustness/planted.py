"""Bugs to plant: each breaks one promise in a few characters, and names the checks that see it.

They are replacements of exact text, not diffs: lines around them may change, and a bug whose text
is gone fails `short/test_planted.py` until somebody plants it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "services" / "errata"
_LOG = "tests/robustness/checks/test_log.py::"
_REPLICAS = "tests/robustness/checks/test_replicas.py::"
_DISKS = "tests/robustness/checks/test_disks.py::"
_SNAPSHOT = "tests/unit/replica/test_snapshot.py::"
_SNAPSHOTS = "tests/integration/retrieval/test_snapshots.py::"
_IDS = "test_an_id_has_one_entry_one_position_and_one_content"
_EPOCHS = "test_an_epoch_ends_with_the_next_grant_even_to_the_same_writer"
_PREFIX = "test_each_position_has_the_state_of_its_prefix"
_SYNCED = "test_what_is_acknowledged_was_synced"


@dataclass(frozen=True)
class Planted:
    """A bug.

    Attributes:
        name: what it does.
        promise: that it breaks.
        check: the test that must fail with it.
        changes: (file below the package, exact old text, new text).
    """

    name: str
    promise: str
    check: str
    changes: tuple[tuple[str, str, str], ...]


def _one(name: str, promise: str, check: str, file: str, old: str, new: str) -> Planted:
    return Planted(name, promise, check, ((file, old, new),))


BUGS = (
    _one(
        "the answer does not wait for the witness",
        "P2",
        _LOG + "test_nothing_is_acknowledged_before_the_witness_has_it",
        "log/store.py",
        'await failpoint_async("log.append.before_witness")\n'
        "            await self._acknowledge(known, since)",
        'await failpoint_async("log.append.before_witness")\n'
        "            self._detached.start(lambda: self._acknowledge(known, since))",
    ),
    _one(
        "entries are served before the witness covers them",
        "P2",
        _LOG + "test_nothing_is_delivered_before_the_witness_has_it",
        "log/store.py",
        "        if self.head.seq <= seq:\n",
        "        self._acknowledged.record = self._tip.known\n        if self.head.seq <= seq:\n",
    ),
    _one(
        "the witness is written and not synced",
        "P2",
        _DISKS + _SYNCED,
        "log/witness.py",
        "        os.fdatasync(self._descriptor)\n",
        "",
    ),
    _one(
        "a witness's checksum is not compared",
        "P2",
        _LOG + "test_a_torn_write_of_the_witness_costs_only_what_was_not_acknowledged",
        "log/witness.py",
        "len(slot) != SLOT_BYTES or hashlib.sha256(fields).digest() != checksum",
        "len(slot) != SLOT_BYTES or not checksum",
    ),
    _one(
        "the witness has one slot, which a crash can tear",
        "P2",
        _LOG + "test_a_torn_write_of_the_witness_costs_only_what_was_not_acknowledged",
        "log/witness.py",
        "generation % 2 * SLOT_SPACING",
        "0 * SLOT_SPACING",
    ),
    Planted(
        "Redis syncs each second",
        "P2",
        _DISKS + _SYNCED,
        (
            ("launch/redis.py", '("--appendfsync", "always")', '("--appendfsync", "everysec")'),
            ("log/backend.py", '"appendfsync": "always"', '"appendfsync": "everysec"'),
        ),
    ),
    Planted(
        "a log that lost its last entry goes on before it",
        "P2",
        _LOG + "test_a_redis_that_lost_its_last_write_is_refused",
        (
            (
                "log/history.py",
                "    if reading.head.seq < known.head.seq:",
                "    if reading.head.seq + 1 < known.head.seq:",
            ),
            (
                "log/history.py",
                "        tip = verify_run(known.head, reading.entries)\n",
                "        lost = reading.head.seq < known.head.seq\n"
                "        tip = reading.head if lost else verify_run(known.head, reading.entries)\n",
            ),
        ),
    ),
    _one(
        "an epoch below the witness's passes",
        "P4",
        _LOG + "test_a_redis_that_lost_its_last_write_is_refused",
        "log/history.py",
        "    if epoch < known.epoch:",
        "    if epoch + 1 < known.epoch:",
    ),
    _one(
        "the epoch before still appends",
        "P4",
        _LOG + _EPOCHS,
        "log/append.lua",
        "if head[2] ~= ARGV[2] then",
        "if tonumber(head[2]) > tonumber(ARGV[2]) + 1 then",
    ),
    _one(
        "a writer of the same name gets its epoch back",
        "P4",
        _LOG + _EPOCHS,
        "log/acquire.lua",
        "local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)",
        "local same = redis.call('HGET', KEYS[1], 'writer') == ARGV[2]\n"
        "local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', same and 0 or 1)",
    ),
    _one(
        "a known id counts whatever its content",
        "P3",
        _LOG + _IDS,
        "log/append.lua",
        "if digest ~= ARGV[4] then return {'CONFLICT', seq} end",
        "if #digest ~= #ARGV[4] then return {'CONFLICT', seq} end",
    ),
    _one(
        "a retry is told the head instead of its position",
        "P3",
        _LOG + _IDS,
        "log/append.lua",
        "return {'DUP', seq}",
        "return {'DUP', head[3]}",
    ),
    _one(
        "every seventh id is forgotten",
        "P3",
        _LOG + _IDS,
        "log/append.lua",
        "redis.call('HSET', KEYS[3], ARGV[3], ARGV[8] .. ':' .. ARGV[4])",
        "if tonumber(ARGV[8]) % 7 > 0 then"
        " redis.call('HSET', KEYS[3], ARGV[3], ARGV[8] .. ':' .. ARGV[4]) end",
    ),
    _one(
        "each retry of the writer has an id of its own",
        "P3",
        _REPLICAS + "test_an_edit_is_reverted_once_whoever_asks",
        "writer/publish.py",
        "lambda: self.append(request_id, payload, author)",
        "lambda: self.append(str(uuid.uuid4()), payload, author)",
    ),
    _one(
        "a subscriber resumes at what it has",
        "P1",
        _LOG + "test_a_subscriber_resumes_behind_what_it_has",
        "log/subscriber.py",
        "subscribe(received.seq + 1)",
        "subscribe(max(1, received.seq))",
    ),
    _one(
        "a progress message counts as an entry",
        "P1",
        _LOG + "test_a_subscriber_resumes_behind_what_it_has",
        "log/feed.py",
        "from_seq += len(page.entries)",
        "from_seq += max(1, len(page.entries))",
    ),
    _one(
        "a subscriber believes the digests it is sent",
        "P1",
        _LOG + "test_a_flipped_bit_of_a_message_is_refused",
        "log/subscriber.py",
        "received = verify_run(received, delivery.entries)",
        "last = delivery.entries[-1]\n"
        "                    received = Position(last.seq, last.chain_digest)",
    ),
    _one(
        "a replica follows whatever log answers",
        "P7",
        _LOG + "test_another_log_is_refused",
        "log/delivery.py",
        "if log_id and self.log_id != log_id:",
        "if log_id and not self.log_id:",
    ),
    _one(
        "an entry may name an artifact that nobody has",
        "P9",
        _LOG + "test_no_entry_names_an_artifact_that_nobody_has",
        "log/service.py",
        "self._entries.append(entry, objection)",
        "self._entries.append(entry)",
    ),
    _one(
        "a change is made although its audit line cannot be written",
        "P10",
        _LOG + "test_a_change_is_in_the_audit_log_before_it_is_made",
        "platform/security/access.py",
        "                begun = await self._begin(method, caller, context)\n"
        "                response = await handle(request, context)\n",
        "                response = await handle(request, context)\n"
        "                begun = await self._begin(method, caller, context)\n",
    ),
    _one(
        "min_seq is compared with the head that is known",
        "P5",
        _REPLICAS + "test_answers_wait_for_what_was_applied_not_for_what_is_known",
        "replica/follower.py",
        "            return self._current_position().seq >= min_seq",
        "            return self._subscriber.head_seq >= min_seq",
    ),
    _one(
        "a batch is applied without its last edit",
        "P9",
        _REPLICAS + _PREFIX,
        "replica/applier.py",
        "            self._edits.commit(payload.edits, payload.lane, seq)",
        "            self._edits.commit(payload.edits[:2], payload.lane, seq)",
    ),
    _one(
        "the position moves before the change",
        "P6",
        _REPLICAS + _PREFIX,
        "retrieval/replica.py",
        "        prepared.apply()\n",
        "        early = prepared.position\n"
        "        self._history.append(\n"
        "            replace(self.latest, seq=early.seq, chain_digest=early.chain_digest)\n"
        "        )\n"
        "        prepared.apply()\n",
    ),
    _one(
        "the state's digest does not cover the lanes",
        "P7",
        _REPLICAS + _PREFIX,
        "replica/state_digest.py",
        "{lane.configured.config_digest}|{lane.lane.digest()}",
        "{lane.configured.config_digest}|",
    ),
    _one(
        "a reversal is noted and not applied to the lane",
        "P11",
        _REPLICAS + _PREFIX,
        "replica/applier.py",
        "        change = await self._prepare_in(name, Reversal(edits))\n"
        "        return change.followed_by(recording(record))",
        "        return recorded(record)",
    ),
    Planted(
        "an edit can be reverted again",
        "P11",
        _REPLICAS + "test_an_edit_is_reverted_once_whoever_asks",
        (
            (
                "writer/reversals.py",
                "        if record.state is not State.COMMITTED:",
                "        if record.state not in (State.COMMITTED, State.REVERTED):",
            ),
            (
                "log/fold.py",
                "if self.known(name).standing is not Standing.COMMITTED:",
                "if self.known(name).standing is Standing.REQUESTED:",
            ),
        ),
    ),
    _one(
        "a trial fit stays on the writer's model",
        "P9",
        _REPLICAS + "test_a_fit_leaves_nothing_behind_on_the_writers_model",
        "writer/fitting.py",
        "    finally:\n        undo()\n",
        "    finally:\n        del undo\n",
    ),
    _one(
        "a replica says that it is one entry before its snapshot",
        "P1",
        _SNAPSHOTS + "test_every_reader_starts_from_a_snapshot_and_goes_on_alike",
        "retrieval/replica.py",
        "        self._history.restart(_snapshot(applier, snapshot.position))",
        "        position = Position(snapshot.position.seq - 1, snapshot.position.chain_digest)\n"
        "        self._history.restart(_snapshot(applier, position))",
    ),
    _one(
        "a restored state is not compared with its digest",
        "P7",
        _SNAPSHOT + "test_a_snapshot_that_does_not_restore_leaves_the_applier_as_it_was",
        "replica/applier.py",
        "        if self.digest() != expected:",
        "        if not expected:",
    ),
    _one(
        "an artifact is served without a look at its digest",
        "P7",
        _REPLICAS + "test_a_flipped_bit_of_an_artifact_is_refused",
        "artifacts/source.py",
        "    if found != digest:",
        "    if len(found) != len(digest):",
    ),
    _one(
        "an artifact gets its name unsynced",
        "P2",
        _DISKS + "test_an_artifact_with_a_name_is_whole_and_synced",
        "artifacts/files.py",
        "            os.fsync(file.fileno())\n",
        "",
    ),
    _one(
        "an artifact is written under its name",
        "P9",
        _DISKS + "test_an_artifact_with_a_name_is_whole_and_synced",
        "artifacts/files.py",
        'temporary = f"{path}.{uuid.uuid4().hex}.tmp"',
        "temporary = path",
    ),
)
"""All of them."""


def problem_of(bug: Planted, package: Path = PACKAGE) -> str:
    """Why the bug cannot be planted; empty if it can."""
    for file, old, new in bug.changes:
        found = (package / file).read_text(encoding="utf-8").count(old)
        if found != 1:
            return f"{bug.name}: its text is {found} times in {file}, once is wanted: {old!r}"
        if old == new:
            return f"{bug.name}: it changes nothing in {file}"
    return ""


def plant(bug: Planted, package: Path) -> None:
    """Changes a copy of the package."""
    if problem := problem_of(bug, package):
        raise ValueError(problem)
    for file, old, new in bug.changes:
        path = package / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
