"""What exists after the log's entries: lanes, and edits with their lane and state; names only.

Every reader folds each entry into a `LogFold` before it acts on it, and the log service before it
appends it. So an entry that cannot be is refused; if it is in the log anyway, all stop before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from errata.editing.namespaces import DEFAULT
from errata.errors import (
    BaseModelMismatchError,
    ErrataError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    UnknownLaneError,
)
from errata.log.canaries import CanaryTable, edits_at
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import (
    EditsCommitted,
    EditsRejected,
    EditsReleased,
    EditsRequested,
    EditsReverted,
    EditsReviewed,
    Entry,
    EntryVoided,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    LanePolicySet,
    Payload,
    ProbesSet,
    SnapshotTaken,
    Verdict,
    impossible_entry,
)
from errata.log.fold_checks import check_lane, check_snapshot, check_voided
from errata.log.forms import (
    check_namespaces,
    check_ref,
    check_some,
    check_texts,
    shown,
)
from errata.log.methods import METHODS
from errata.log.policy import (
    AFTER,
    WAITING,
    check_probes,
    check_release,
    check_review,
    check_schedules,
)
from errata.log.signing.trust import TrustState
from errata.log.standing import Known, Standing, not_revertible


class LogFold:
    """The log's entries up to a position, folded.

    Attributes:
        seq: of the last entry.
        lanes: by name.
        impossible: entries that were skipped and are not voided yet → what they contradict.
        voided: entries that were skipped and are voided.
        trust: whose signatures count.
        snapshot: the newest one that an entry names; None before the first.
        timed: proposed edits that wait for a time after their approval.
        reviewed_lanes: lanes whose new edits wait for approval.
        canaries: open and ended ones.
        has_policy: whether an entry is of a kind that versions before policies do not know; they
            must not start from a snapshot of it.
        has_namespaces: likewise, of versions that know no namespaces.
    """

    def __init__(self) -> None:
        """Starts before the first entry."""
        self.seq = 0
        self.lanes: dict[str, LaneConfigured] = {}
        self.impossible: dict[int, str] = {}
        self.voided: set[int] = set()
        self.trust = TrustState()
        self.snapshot: SnapshotTaken | None = None
        self.reviewed_lanes: set[str] = set()
        self.timed: set[str] = set()
        self.canaries = CanaryTable()
        self.has_policy = self.has_namespaces = False
        self._edits: dict[str, Known] = {}
        self._standings: dict[Known, Known] = {}

    def add(self, entry: Entry) -> None:
        """Folds the next entry in.

        Raises:
            ImpossibleEntryError: it contradicts the entries before it; the fold is unchanged.
        """
        try:
            trust = self.trust.after(entry)  # once: it may verify a signature
            self._check_content(entry.payload)
        except ErrataError as error:
            raise impossible_entry(entry.seq, error.message) from error
        self.seq = entry.seq
        self._put(entry.payload)
        self.trust = trust

    def skip(self, seq: int, problem: str) -> None:
        """Passes over the next entry, which `add` or its decoding refused because of `problem`."""
        self.impossible[seq] = problem
        self.seq = seq

    def check(self, payload: Payload) -> None:
        """Returns if a next entry with this content can be applied.

        Raises:
            InvalidRequestError: the content has an impossible form.
            UnknownLaneError, NotFoundError: it names a lane, an edit or an entry that does not
                exist.
            PreconditionError: what it names has another lane, state or configuration.
            CommitNotTrustedError: it must be signed by a trusted key and is not.
        """
        now = datetime.fromtimestamp(0, UTC)  # trust depends on content and order alone
        self.trust.after(Entry(self.seq + 1, "", now, "", payload))
        self._check_content(payload)

    def _check_content(self, payload: Payload) -> None:
        match payload:
            case LaneConfigured():
                check_lane(payload, self.lanes)
            case EditsRequested():
                self._check_request(payload)
            case EditsCommitted():
                self._check_commit(payload)
            case EditsRejected():
                names = tuple(rejection.edit for rejection in payload.rejections)
                self._check_pending(names, payload.lane, (Standing.REQUESTED, *WAITING))
            case EditsReverted():
                self._check_reversal(payload)
            case LaneModelCommitted():
                self._check_lane_model(payload)
            case LaneCompacted():
                self._check_compaction(payload)
            case EntryVoided():
                check_voided(payload, self.seq, self.voided, self.impossible)
            case SnapshotTaken():
                check_snapshot(payload, self.seq, self.snapshot)
                for lane in self.lanes.values():
                    self._check_model(lane, payload.base_model_digest)
            case ProbesSet():
                check_probes(payload)
            case LanePolicySet(lane=name):
                self._lane(name)
            case EditsReviewed():
                check_review(payload, self.known)
            case EditsReleased():
                check_release(payload, self.known)
            case CanarySet(lane=name):
                self.canaries.check_set(payload, self._lane(name).method)
            case CanaryEnded():
                self.canaries.check_ended(payload, self._edits)

    def check_new(self, payload: Payload) -> None:
        """Returns if an entry with this content can be appended now; stricter than `check`.

        Readers take what earlier versions appended, and leave methods that only later versions
        know to those.

        Raises:
            EditNotRevertibleError: it reverts an edit a second time.
            ErrataError: as `check`.
        """
        self.check(payload)
        match payload:
            case EditsReverted(edits=names):
                for name in names:
                    if self.known(name).standing is not Standing.COMMITTED:
                        raise not_revertible(name, self.known(name))
            case LaneConfigured(method=method) if method not in METHODS:
                raise InvalidRequestError(
                    f"this log service knows no method {shown(method)}; choose one of "
                    f"{', '.join(sorted(METHODS))}, or upgrade it.",
                    field="method",
                )

    def active(self, lane: str) -> list[str]:
        """The lane's edits that are in force, in the order of their requests."""
        wanted = (lane, Standing.COMMITTED)
        return [name for name, known in self._edits.items() if known[:2] == wanted]

    def standings(self) -> dict[str, Known]:
        """Every edit's lane, state and place."""
        return dict(self._edits)

    def copy(self) -> LogFold:
        """A fold of the same entries, which the next `add` leaves as it is."""
        copied = LogFold()
        copied.seq, copied.lanes = self.seq, dict(self.lanes)
        copied.impossible, copied.voided = dict(self.impossible), set(self.voided)
        copied.trust, copied._edits = self.trust, dict(self._edits)
        copied.reviewed_lanes, copied.timed = set(self.reviewed_lanes), set(self.timed)
        copied.snapshot, copied.canaries = self.snapshot, self.canaries.copy()
        copied.has_policy, copied.has_namespaces = self.has_policy, self.has_namespaces
        return copied

    def restore_standings(self, standings: Iterable[Sequence[str]]) -> None:
        """Sets each edit's lane, state and namespace.

        Args:
            standings: name, lane, value of the state; and the namespace, but for the default one.

        Raises:
            ValueError: there is no such state.
        """
        known: dict[tuple[str, ...], Known] = {}
        for name, lane, value, *namespace in standings:
            key = lane, value, *namespace
            if key not in known:
                known[key] = self._shared(lane, Standing(value), *namespace)
                self.has_namespaces |= bool(known[key].namespace)
            self._edits[name] = known[key]

    def _put(self, payload: Payload) -> None:
        match payload:
            case LaneConfigured() as lane:
                self.lanes[lane.lane] = lane
            case EditsRequested():
                self._put_request(payload)
            case EditsCommitted(lane=name, edits=names):
                self._set(names, name, Standing.COMMITTED)
            case EditsRejected(lane=name, rejections=rejections):
                self._set((item.edit for item in rejections), name, Standing.REJECTED)
                self.timed.difference_update(item.edit for item in rejections)
            case EditsReverted(edits=names):
                self._set(names, self._edits[names[0]].lane, Standing.REVERTED)
            case SnapshotTaken() as snapshot:
                self.snapshot = snapshot
            case ProbesSet():
                self.has_policy = True
            case LanePolicySet(lane=name, requires_approval=required):
                self.has_policy = True
                (self.reviewed_lanes.add if required else self.reviewed_lanes.discard)(name)
            case EditsReviewed(edits=names, verdict=verdict):
                for name in names:
                    is_early = verdict is Verdict.APPROVED and name in self.timed
                    after = Standing.SCHEDULED if is_early else AFTER[verdict]
                    self._set((name,), self._edits[name].lane, after)
                self.timed.difference_update(names)
            case EditsReleased(edits=names):
                for name in names:
                    self._set((name,), self._edits[name].lane, Standing.REQUESTED)
            case EntryVoided(seq=seq):
                del self.impossible[seq]
                self.voided.add(seq)
            case CanarySet():
                self.canaries.set(payload, self.seq)
            case CanaryEnded():
                self._end_canary(payload)

    def _put_request(self, payload: EditsRequested) -> None:
        lane = payload.lane
        self.has_policy |= bool(payload.schedules)
        is_reviewed = lane in self.reviewed_lanes
        self.has_namespaces |= payload.has_namespaces
        for edit, times in payload.scheduled():
            is_early = times.effective_from is not None
            if is_reviewed and is_early:
                self.timed.add(edit.name)
            soon = Standing.SCHEDULED if is_early else Standing.REQUESTED
            standing = Standing.PROPOSED if is_reviewed else soon
            self._edits[edit.name] = self._shared(lane, standing, edit.namespace)

    def _end_canary(self, payload: CanaryEnded) -> None:
        ended = self.canaries.end(payload.canary)
        if payload.outcome is Outcome.ROLLED_BACK:
            self._set(payload.edits, ended.lane, Standing.REVERTED)
            return
        for name, known in list(edits_at(ended.place, self._edits)):
            self._edits[name] = self._shared(known.lane, known.standing, ended.namespace)

    def _set(self, names: Iterable[str], lane: str, standing: Standing) -> None:
        for name in names:
            self._edits[name] = self._shared(lane, standing, self._edits[name].namespace)

    def _shared(self, lane: str, standing: Standing, namespace: str = DEFAULT) -> Known:
        """One object for all edits: a million would keep the collector busy."""
        known = Known(lane, standing, namespace)
        return self._standings.setdefault(known, known)

    def _check_request(self, payload: EditsRequested) -> None:
        check_namespaces(payload, self._lane(payload.lane).method)
        self.canaries.check_request(payload)
        check_some(payload.edits)
        check_schedules(payload)
        check_texts(payload)

    def _check_commit(self, payload: EditsCommitted) -> None:
        self._check_pending(payload.edits, payload.lane)
        lane = self._lane(payload.lane)
        self._check_model(lane, payload.base_model_digest)
        if payload.lane_config_digest != lane.config_digest:
            raise PreconditionError(
                f"it was fitted with another configuration than {payload.lane} has; fit it again.",
                lane=payload.lane,
            )
        check_ref(payload.artifact, "artifact")
        if payload.memory is not None:
            check_ref(payload.memory, "memory")

    def _check_pending(
        self,
        names: Collection[str],
        lane: str,
        allowed: Collection[Standing] = (Standing.REQUESTED,),
    ) -> None:
        """Checks that the edits were requested in the lane, and have an allowed state."""
        self._lane(lane)
        check_some(names)
        for name in names:
            known = self.known(name)
            if known.lane != lane:
                raise PreconditionError(f"{name} belongs to {known.lane}, not to {lane}.")
            if known.standing not in allowed:
                raise PreconditionError(
                    f"{name} is {known.standing}; only requested edits can be committed or "
                    "rejected.",
                    edit=name,
                )

    def _check_reversal(self, payload: EditsReverted) -> None:
        check_some(payload.edits)
        lanes = set()
        for name in payload.edits:
            known = self.known(name)
            lanes.add(known.lane)
            # Earlier versions appended repeated reversals, which all readers skip.
            if known.standing not in (Standing.COMMITTED, Standing.REVERTED):
                raise not_revertible(name, known)
        if len(lanes) > 1:
            raise PreconditionError(
                f"the edits belong to {', '.join(sorted(lanes))}; revert lane by lane."
            )

    def _check_lane_model(self, payload: LaneModelCommitted) -> None:
        lane = self._check_whole(payload.lane, payload.edits, payload.base_model_digest)
        if lane.method in METHODS and not METHODS[lane.method].lane_models:
            raise PreconditionError(f"{lane.lane} uses {lane.method}, which has no lane models.")
        check_ref(payload.model, "model")
        if payload.repository is not None:
            check_ref(payload.repository, "repository")
        if bool(payload.edits) != (payload.repository is not None):
            raise InvalidRequestError(
                "a lane model comes with a repository exactly if the lane has active edits.",
                field="repository",
            )

    def _check_compaction(self, payload: LaneCompacted) -> None:
        lane = self._check_whole(payload.lane, payload.edits, payload.base_model_digest)
        if lane.method in METHODS and not METHODS[lane.method].compaction:
            raise PreconditionError(f"{lane.lane} uses {lane.method}, which has no compaction.")
        check_some(payload.edits)
        check_ref(payload.artifact, "artifact")

    def _check_whole(self, name: str, edits: Collection[str], base_model: str) -> LaneConfigured:
        """Checks an entry that replaces all of a lane: it names exactly the active edits."""
        lane = self._lane(name)
        self._check_model(lane, base_model)
        active = set(self.active(name))
        if set(edits) != active or len(edits) != len(active):
            raise PreconditionError(
                f"it names {len(edits)} edits, which are not exactly the {len(active)} that are in "
                f"force in {name}; read the log up to its head, and make it again.",
                lane=name,
            )
        return lane

    def _check_model(self, lane: LaneConfigured, base_model: str) -> None:
        if base_model != lane.base_model_digest:
            raise BaseModelMismatchError(
                f"it was made with another base model than {lane.lane}, which has "
                f"{lane.base_model_digest[:16]}….",
                lane=lane.lane,
            )

    def _lane(self, name: str) -> LaneConfigured:
        if name not in self.lanes:
            raise UnknownLaneError(f"there is no lane {shown(name)}; configure it first.")
        return self.lanes[name]

    def known(self, name: str) -> Known:
        """The lane and state of an edit; NotFoundError if no entry requested it."""
        if name not in self._edits:
            raise NotFoundError(f"no entry requested the edit {shown(name)}.")
        return self._edits[name]
