"""The base model that the settings name, the same for the writer and for every worker."""

from __future__ import annotations

import time

import structlog
import transformers

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.loading import unread_generation_config
from errata.errors import InvalidRequestError, ModelError
from errata.platform.settings import Settings

_log = structlog.get_logger(__name__)


def load_base_model(settings: Settings) -> CausalLM:
    """Loads the model; the demo model if the settings name none.

    Raises:
        ModelNotFoundError, UnsupportedModelError: no model, or none that can be edited.
        InvalidRequestError: unknown device. Messages name the setting.
    """
    transformers.utils.logging.disable_progress_bar()
    model = settings.model
    path = model.path or demo.model_path()
    _log.info("the model is being loaded", path=str(path), dtype=model.dtype, device=model.device)
    begun = time.monotonic()
    try:
        loaded = CausalLM.load(
            path, dtype=model.dtype, device=model.device, special_tokens=model.special_tokens
        )
    except (ModelError, InvalidRequestError) as error:
        name = error.field or "path"
        told = f"model.{name} (ERRATA_MODEL__{name.upper()}): {error.message}"
        raise type(error)(told, field=error.field, **error.metadata) from error
    _log.info("the model is loaded", seconds=round(time.monotonic() - begun, 1))
    unread = unread_generation_config(getattr(loaded.model, "generation_config", None))
    if unread:
        _log.warning("the generation config asks for what Errata does not do", fields=unread)
    return loaded
