"""An AdaPLE lane: solves deltas of the down projections, which apply to every request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from errata.editing.adaple import covariance, damage
from errata.editing.adaple.compaction import refit
from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.fit import Statistics, fit
from errata.editing.adaple.memory import AdapleMemory
from errata.editing.adaple.state import AdapleState
from errata.editing.adaple.view import AdapleAttribution
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.commits import (
    Commit,
    Compaction,
    LaneDump,
    LaneEntry,
    Restoration,
    Reversal,
)
from errata.editing.lane.contract import (
    NEARLY_FULL,
    Compact,
    FitResult,
    Lane,
    LaneReport,
    Progress,
    Resources,
    require_gathered,
)
from errata.editing.lane.search import Indices
from errata.editing.lane.swap import Cell, Change
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights
from errata.errors import PreconditionError


class AdapleLane(Lane):
    """The AdaPLE lane of one process.

    Attributes:
        state: what is committed.
        memory: keys of earlier batches; empty in processes that do not fit.
    """

    def __init__(
        self,
        model: BaseLLM,
        config: AdapleConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> None:
        """Opens an empty lane; it does not use `indices`.

        Raises:
            InvalidRequestError: a configured layer does not exist in the model.
            PreconditionError: this process has no weights.
        """
        if not isinstance(model, CausalLM) or weights is None:
            raise PreconditionError(f"{name} changes weights; this process has none.", lane=name)
        self.config, self.name = config, name
        self.state = AdapleState(model, config, weights, name)
        self.memory = Cell(AdapleMemory(config))
        self._model = model
        self._statistics: Statistics | None = None

    def gather(self, resources: Resources, *, on_progress: Progress | None = None) -> None:
        """Computes what fits need of the base model, as `Lane.gather`.

        `adaple.covariance` says how the edited layers' keys are spread in text, and `adaple.damage`
        how much text minds a change of their values.
        """
        moments = covariance.gather(self._model, self.config, resources, on_progress=on_progress)
        self._statistics = Statistics(moments, damage.gather(self._model, self.config, resources))

    def fit(self, batch: EditBatch) -> FitResult:
        """Solves a batch, as `Lane.fit`; see `adaple.fit`."""
        statistics = require_gathered(self._statistics, self.name)
        return fit(self._model, batch, self.config, self.state, self.memory.value, statistics)

    def prepare(self, entry: LaneEntry) -> Change:
        """As `Lane.prepare`; the change also replaces the memory."""
        memory = self.memory.value.after(entry)
        match entry:
            case Commit():
                change = self.state.prepare_commit(entry)
            case Reversal(edits=edits):
                change = self.state.prepare_reversal(edits)
            case Compaction():
                change = self.state.prepare_compaction(entry)
            case Restoration(dump=dump):
                change = self.state.prepare_restoration(dump.contents)
            case _:
                raise PreconditionError(f"{self.name} has no lane model.", lane=self.name)
        return change.followed_by(self.memory.replaced_by(memory))

    def attribution(self) -> AdapleAttribution:
        """Names the edits that shape answers, of those that the lane holds at this call."""
        return AdapleAttribution(self.state)

    @property
    def compact(self) -> Compact:
        """Fits all active edits anew; see `adaple.compaction`."""
        return self._refit

    def report(self) -> LaneReport:
        """Edits and how many the width holds, and a warning if that is nearly reached."""
        num, layers = len(self.state.names), self.state.layers
        capacity = self.config.resolve_capacity(len(layers), self._model.d_ff)
        sizes = {"edits": num, "capacity": capacity}
        if num < NEARLY_FULL * capacity:
            return LaneReport(sizes)
        warning = (
            f"{num} of about {capacity} edits that {len(layers)} layers of width "
            f"{self._model.d_ff} hold are committed; more make earlier ones and other text worse. "
            "Send further edits to a lane of method recipe or lemoe, which keeps each edit apart, "
            "or revert edits."
        )
        return LaneReport(sizes, (warning,))

    def digest(self) -> str:
        """SHA-256, hex, of the current weights of the lane's layers in the model."""
        return self.state.digest()

    def dump(self) -> Callable[[], LaneDump]:
        """As `Lane.dump`: the factors of every commit, and the memory."""
        contents, memory = self.state.dump(), self.memory.value
        return lambda: LaneDump("", contents(), memory.dump())

    def _refit(self, edits: Sequence[Edit], *, num_experts: int, seed: int) -> Artifact:
        return refit(
            self._model,
            edits,
            self.config,
            self.state,
            self.memory.value,
            require_gathered(self._statistics, self.name),
            num_experts=num_experts,
            seed=seed,
        )
