"""Methods: typed factories of lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from errata.editing.lane.contract import Capabilities, Lane, LaneConfig
from errata.editing.lane.needs import EditLoad, LaneNeeds
from errata.editing.lane.search import Indices
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.model.shape import ModelShape
from errata.editing.model.weights import EditedWeights
from errata.errors import InvalidRequestError


class Method(Protocol):
    """One editing method: a typed factory of lanes."""

    @property
    def name(self) -> str:
        """The name that lanes use."""

    @property
    def config(self) -> type[LaneConfig]:
        """The lane's configuration model."""

    @property
    def capabilities(self) -> Capabilities:
        """What the method promises."""

    @property
    def presets(self) -> Mapping[str, Mapping[str, object]]:
        """Named configurations, as values that differ from the defaults."""

    def values(self, preset: str, values: Mapping[str, object]) -> dict[str, object]:
        """The values of a new lane: a preset's or the method's defaults, overridden by others.

        Raises:
            InvalidRequestError: the preset does not exist; the message lists those that do.
        """

    def earlier_values(self, values: Mapping[str, object]) -> list[dict[str, object]]:
        """What `values` was without a preset in each earlier version that had other defaults."""

    def open(
        self,
        model: BaseLLM,
        config: LaneConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> Lane:
        """An empty lane.

        Args:
            model: of the process: a CausalLM; for methods that route, any BaseLLM.
            config: of the lane; an instance of `config`.
            weights: shared by all lanes of this model; None in a process without weights, where
                only methods that route can open lanes.
            name: of the lane; keeps its contributions apart from those of other lanes.
            indices: creates the indices that routing searches.

        Raises:
            InvalidRequestError: the configuration does not fit the model.
            PreconditionError: the method changes weights, and the process has none.
        """

    def needs(self, model: ModelShape, config: LaneConfig, load: EditLoad) -> LaneNeeds:
        """What a lane needs in each process, computed before anything runs.

        Args:
            model: the LLM, without weights.
            config: of the lane; an instance of `config`.
            load: the edits that it is planned for.

        Raises:
            InvalidRequestError: the configuration does not fit the model, or the method does not
                say what its lanes need.
        """


Defaults = Callable[[Mapping[str, object]], Mapping[str, object]]


def own_defaults(values: Mapping[str, object]) -> Mapping[str, object]:
    """No values that differ from the configuration's own defaults."""
    return {}


C = TypeVar("C", bound=LaneConfig)
C_contra = TypeVar("C_contra", bound=LaneConfig, contravariant=True)


class Opener(Protocol[C_contra]):
    """Opens lanes of one configuration type; `Method.open` documents the arguments."""

    def __call__(
        self,
        model: BaseLLM,
        config: C_contra,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> Lane:
        """An empty lane."""


class Planner(Protocol[C_contra]):
    """What lanes of one configuration type need; `Method.needs` documents the arguments."""

    def __call__(self, model: ModelShape, config: C_contra, load: EditLoad) -> LaneNeeds:
        """The needs of a lane."""


@dataclass(frozen=True, slots=True)
class SliceMethod(Generic[C]):
    """The `Method` of a slice.

    Attributes:
        name: the name that lanes use.
        config: the lane's configuration model.
        capabilities: what it promises.
        opener: usually the slice's lane class.
        presets: named configurations, as values that differ from the configuration's own defaults.
        defaults: of new lanes without a preset: given values → further ones that differ from the
            configuration's own defaults, which are what lanes have whose log is older than an
            option.
        earlier_defaults: what `defaults` was in earlier versions, whose lanes keep it.
        planner: says what a lane needs; without one, `errata plan` refuses the method.
    """

    name: str
    config: type[C]
    capabilities: Capabilities
    opener: Opener[C]
    presets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    planner: Planner[C] | None = None
    defaults: Defaults = own_defaults
    earlier_defaults: Sequence[Defaults] = (own_defaults,)

    def values(self, preset: str, values: Mapping[str, object]) -> dict[str, object]:
        """As `Method.values`."""
        if preset and preset not in self.presets:
            known = ", ".join(sorted(self.presets)) or "none"
            raise InvalidRequestError(
                f"method {self.name} has no preset {preset!r}; it has: {known}.", field="preset"
            )
        return {**(self.presets[preset] if preset else self.defaults(values)), **values}

    def earlier_values(self, values: Mapping[str, object]) -> list[dict[str, object]]:
        """As `Method.earlier_values`."""
        return [{**defaults(values), **values} for defaults in self.earlier_defaults]

    def open(
        self,
        model: BaseLLM,
        config: LaneConfig,
        weights: EditedWeights | None,
        *,
        name: str,
        indices: Indices,
    ) -> Lane:
        """As `Method.open`."""
        return self.opener(model, self._own(config), weights, name=name, indices=indices)

    def needs(self, model: ModelShape, config: LaneConfig, load: EditLoad) -> LaneNeeds:
        """As `Method.needs`."""
        if self.planner is None:
            raise InvalidRequestError(
                f"method {self.name} does not say what its lanes need; give its METHOD a planner.",
                field="method",
            )
        return self.planner(model, self._own(config), load)

    def _own(self, config: LaneConfig) -> C:
        if not isinstance(config, self.config):
            raise TypeError(f"a {self.name} lane needs a {self.config.__name__}, not {config!r}")
        return config
