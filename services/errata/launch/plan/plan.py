"""Plans a deployment: the needs of every service, from the LLM's configuration and the lanes'.

A service's needs are the sum of those of its parts, each computed beside the code that causes it:
`editing/*/needs.py`, `engine/needs.py`, `indices/needs.py` and `log/needs.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from errata.editing.lane.contract import LaneConfig
from errata.editing.lane.method import Method
from errata.editing.lane.needs import EditLoad, LaneNeeds, Need, Place, Work
from errata.editing.model.shape import ModelShape
from errata.engine.limits import EngineLimits
from errata.engine.needs import engine_needs
from errata.indices.needs import index_needs
from errata.log.needs import log_needs

MIB = 2**20

LIBRARY_BYTES: Mapping[str, int] = {
    "log": 60 * MIB,
    "writer": 370 * MIB,
    "worker": 420 * MIB,
    "retrieval": 370 * MIB,
    "gateway": 420 * MIB,
}
"""Memory of a process that has imported its service and done nothing else; measured on Linux."""

_TOKENIZER_BYTES = 800  # of one token in a fast tokenizer of Hugging Face; measured
_LEDGER_BYTES = 3_000  # of one edit in the writer's ledger and its names in an applier; estimated
_APPLIED_BYTES = 500  # of one edit in an applier's dictionaries; estimated


@dataclass(frozen=True, slots=True)
class PlannedLane:
    """A lane to plan for.

    Attributes:
        name: `lanes/{lane}`.
        method: of the lane.
        config: of the lane.
        model: folder of its lane model; None for one with the default sizes.
    """

    name: str
    method: Method
    config: LaneConfig
    model: Path | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A need and what it belongs to.

    Attributes:
        owner: `process`, `model`, `engine`, `edits`, `index` or the name of a lane.
        need: of this part.
    """

    owner: str
    need: Need


@dataclass(frozen=True, slots=True)
class Service:
    """One kind of process.

    Attributes:
        name: of the service.
        count: processes; 0 if the settings do not use it.
        parts: needs of one process, or of all files.
        is_exclusive: at most one of the things that take memory for a while runs at once.
    """

    name: str
    count: int
    parts: tuple[Part, ...]
    is_exclusive: bool = False

    def held(self, *places: Place) -> int:
        """Bytes at these places that are taken all the time."""
        return sum(
            part.need.num_bytes
            for part in self.parts
            if part.need.place in places and not part.need.during
        )

    def peak(self, *places: Place) -> int:
        """Bytes at these places at the highest: with what runs at once, or with the largest."""
        groups: defaultdict[tuple[str, str], int] = defaultdict(int)
        for part in self.parts:
            need = part.need
            if need.during and need.place in places:
                groups[part.owner, need.during] += need.num_bytes
        extra = max(groups.values(), default=0) if self.is_exclusive else sum(groups.values())
        return self.held(*places) + extra


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment needs.

    Attributes:
        model: the LLM.
        load: the edits of each lane.
        limits: of every worker's engine.
        lanes: the lanes.
        services: in the order of the request's path.
        work: operations, by lane; the LLM's own are under `model`.
        warnings: about lanes, and about settings that need much memory.
    """

    model: ModelShape
    load: EditLoad
    limits: EngineLimits
    lanes: tuple[PlannedLane, ...]
    services: tuple[Service, ...]
    work: Mapping[str, tuple[Work, ...]]
    warnings: tuple[str, ...]


def make_plan(
    model: ModelShape,
    lanes: Sequence[PlannedLane],
    load: EditLoad,
    limits: EngineLimits,
    *,
    replicas: int,
    uses_retrieval: bool,
    kept_entries: int | None = None,
) -> Plan:
    """Plans a deployment.

    Args:
        model: the LLM.
        lanes: each carries all edits of `load`.
        load: the edits.
        limits: of every worker's engine.
        replicas: number of workers.
        uses_retrieval: whether workers ask a retrieval service instead of searching themselves.
        kept_entries: what trims leave in Redis; None if nothing is trimmed.

    Raises:
        InvalidRequestError: a lane's configuration does not fit the model.
        ModelNotFoundError, BaseModelMismatchError, ArtifactCorruptError: about a lane model.
    """
    by_lane = {lane.name: _needs_of(lane, model, load) for lane in lanes}
    commits = sum(load.num_commits(needs.batch) for needs in by_lane.values())
    services = (
        Service("gateway", 1, _libraries("gateway")),
        Service(
            "worker", replicas, _worker(model, by_lane, load, limits, searches=not uses_retrieval)
        ),
        *_retrieval(by_lane, load, count=int(uses_retrieval)),
        Service("writer", 1, _writer(model, by_lane, load), is_exclusive=True),
        Service("log", 1, _libraries("log")),
        Service("redis", 1, _owned("edits", log_needs(load, commits, kept_entries))),
        Service(
            "artifacts",
            1,
            tuple(part for name, needs in by_lane.items() for part in _owned(name, needs.store)),
        ),
    )
    token = Work("a token of any row", 2 * _multiplied(model), "2(P_blocks + d·V)")
    work = {"model": (token,), **{name: needs.work for name, needs in by_lane.items()}}
    found = [f"{name}: {text}" for name, needs in by_lane.items() for text in needs.warnings]
    return Plan(
        model,
        load,
        limits,
        tuple(lanes),
        services,
        work,
        (*found, *_context_warning(model, services)),
    )


def _needs_of(lane: PlannedLane, model: ModelShape, load: EditLoad) -> LaneNeeds:
    return lane.method.needs(model, lane.config, replace(load, lane_model=lane.model))


def _multiplied(model: ModelShape) -> int:
    return model.num_block_parameters + model.d * model.num_embeddings


def _owned(owner: str, needs: Sequence[Need]) -> tuple[Part, ...]:
    return tuple(Part(owner, need) for need in needs)


def _libraries(service: str) -> tuple[Part, ...]:
    size = LIBRARY_BYTES[service]
    need = Need("interpreter and libraries", size, "measured", "host", is_estimate=True)
    return (Part("process", need),)


def _model(model: ModelShape) -> tuple[Part, ...]:
    tokens = model.num_embeddings * _TOKENIZER_BYTES
    return _owned(
        "model",
        [
            Need("weights", model.num_bytes, "P·b"),
            Need("tokenizer", tokens, f"V·{_TOKENIZER_BYTES}", "host", is_estimate=True),
        ],
    )


def _worker(
    model: ModelShape,
    by_lane: Mapping[str, LaneNeeds],
    load: EditLoad,
    limits: EngineLimits,
    *,
    searches: bool,
) -> tuple[Part, ...]:
    """The LLM, an engine, and every lane; versions of edited weights while rows still use them."""
    parts = [*_libraries("worker"), *_model(model), *_owned("engine", engine_needs(model, limits))]
    for name, needs in by_lane.items():
        parts += _owned(name, needs.replica)
        parts += _owned(name, needs.effects)
        parts += _owned(name, needs.versions(limits.weight_versions))
        if searches:
            parts += _owned(name, index_needs(needs.searched, load.device))
    return (*parts, _applied(load, len(by_lane)))


def _writer(
    model: ModelShape, by_lane: Mapping[str, LaneNeeds], load: EditLoad
) -> tuple[Part, ...]:
    """The LLM with every lane's edits, what fits need, and the ledger of all edits."""
    parts = [*_libraries("writer"), *_model(model)]
    for name, needs in by_lane.items():
        parts += _owned(name, needs.replica)
        parts += _owned(name, needs.writer)
        parts += _owned(name, index_needs(needs.searched, load.device))
    count = load.num_edits * len(by_lane)
    ledger = Need("ledger", count * _LEDGER_BYTES, f"N·{_LEDGER_BYTES:,}", "host", is_estimate=True)
    return (*parts, Part("edits", ledger), _applied(load, len(by_lane)))


def _retrieval(
    by_lane: Mapping[str, LaneNeeds], load: EditLoad, *, count: int
) -> tuple[Service, ...]:
    """Lanes that route, without the LLM; nothing if no lane does."""
    parts: list[Part] = []
    for name, needs in by_lane.items():
        if needs.retrieval is not None:
            parts += _owned(name, needs.retrieval)
            parts += _owned(name, index_needs(needs.searched, load.device))
    if not parts:
        return ()
    routed = sum(needs.retrieval is not None for needs in by_lane.values())
    return (
        Service("retrieval", count, (*_libraries("retrieval"), *parts, _applied(load, routed))),
    )


def _applied(load: EditLoad, lanes: int) -> Part:
    size = load.num_edits * lanes * _APPLIED_BYTES
    need = Need("edits by name", size, f"N·{_APPLIED_BYTES}", "host", is_estimate=True)
    return Part("edits", need)


def _context_warning(model: ModelShape, services: Sequence[Service]) -> tuple[str, ...]:
    """Keys and values for the longest rows can exceed the weights many times."""
    values = sum(
        part.need.num_bytes
        for service in services
        if service.name == "worker"
        for part in service.parts
        if part.need.name.startswith("keys and values of the longest")
    )
    if values <= model.num_bytes:
        return ()
    return (
        "keys and values of the longest rows take more than the weights; set "
        "ERRATA_WORKER__MAX_CONTEXT (or --max-context) to the longest text that you serve.",
    )
