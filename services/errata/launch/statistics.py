"""`errata statistics`: computes and caches the base model's statistics for the lanes' fits."""

from __future__ import annotations

from rich.console import Console

from errata.editing.lane.contract import Progress, Resources
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import EditedWeights
from errata.editing.registry import get_method
from errata.indices.faiss_indices import FaissIndices
from errata.launch.progress import counting
from errata.log.entries import LaneConfigured
from errata.platform.settings import Settings
from errata.replica.base_model import load_base_model
from errata.writer.lanes import read_lanes
from errata.writer.main import resources_of
from errata.writer.resources import LaneResources


def compute_statistics(settings: Settings, console: Console) -> None:
    """Computes the statistics of every configured lane, except for those already in the cache.

    Raises:
        StartupError: the text is missing, or the lanes file is invalid.
        ModelError: the model cannot be used.
    """
    resources = resources_of(settings)
    model = load_base_model(settings)
    lanes = read_lanes(
        settings.writer.lanes_file,
        settings.writer.default_lane,
        model.digest,
        settings.writer.default_method,
    )
    for lane in lanes:
        configured = lane.configured
        lane_resources = LaneResources(resources, lane.adapters)
        with counting(console, f"{configured.lane} ({configured.method})", "tokens") as progress:
            _gather(model, configured, lane_resources, progress)
    console.print(f"statistics of {model.digest[:16]}… are in {resources.cache_dir}")


def _gather(
    model: CausalLM,
    lane: LaneConfigured,
    resources: Resources,
    on_progress: Progress,
) -> None:
    method = get_method(lane.method)
    config = method.config.model_validate_json(lane.config_json)
    opened = method.open(
        model, config, EditedWeights(model), name=lane.lane, indices=FaissIndices()
    )
    opened.gather(resources, on_progress=on_progress)
