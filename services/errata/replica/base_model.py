"""Loads the base model that the settings name, for the writer and every worker."""

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
    """Loads the model that the settings name, or else the demo model.

    Raises:
        ModelNotFoundError, UnsupportedModelError: the model does not exist or cannot be edited.
        InvalidRequestError: unknown device. Messages name the setting.
    """
    transformers.utils.logging.disable_progress_bar()
    model = settings.model
    path = model.path or demo.model_path()
    _log.info("loading the model", path=str(path), dtype=model.dtype, device=model.device)
    begun = time.monotonic()
    try:
        loaded = CausalLM.load(
            path, dtype=model.dtype, device=model.device, special_tokens=model.special_tokens
        )
    except (ModelError, InvalidRequestError) as error:
        name = error.field or "path"
        message = f"model.{name} (ERRATA_MODEL__{name.upper()}): {error.message}"
        raise type(error)(message, field=error.field, **error.metadata) from error
    _log.info("model loaded", seconds=round(time.monotonic() - begun, 1))
    unread = unread_generation_config(getattr(loaded.model, "generation_config", None))
    if unread:
        _log.warning("the generation config has options that Errata ignores", fields=unread)
    return loaded
