"""The served model: its names and limits, as a worker reports them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from errata.gateway.http.errors import HttpError
from errata.gateway.http.openai_convert import Model, model_request

if TYPE_CHECKING:
    from errata.gateway.pool import WorkerPool  # loads Ray


_FRESH_SECONDS = 60.0  # limits can change when the workers are replaced


class ServedModel:
    """Asks the workers for their model, at most once a minute."""

    def __init__(self, pool: WorkerPool, aliases: str, timeout_seconds: float) -> None:
        """Prepares; the first request asks.

        Args:
            pool: the workers.
            aliases: more names of the model, separated by commas.
            timeout_seconds: of the question.
        """
        self._pool = pool
        self._aliases = [name.strip() for name in aliases.split(",") if name.strip()]
        self._timeout = timeout_seconds
        self._since = int(time.time())
        self._known: tuple[float, Model] | None = None

    async def get(self) -> Model:
        """The model.

        Raises:
            ErrataError: no worker answers.
        """
        if self._known is None or time.monotonic() - self._known[0] > _FRESH_SECONDS:
            model = await self._pool.call("get_model", model_request(), self._timeout)
            self._known = time.monotonic(), model
        return self._known[1]

    async def named(self, name: str) -> Model:
        """The model, if that is one of its names.

        Raises:
            HttpError: 404, it is not.
            ErrataError: as `get`.
        """
        model = await self.get()
        if name != model.name and name not in self._aliases:
            message = f"The model '{name}' does not exist; this gateway serves '{model.name}'."
            raise HttpError(404, message, code="model_not_found", param="model")
        return model

    async def described(self) -> list[dict[str, Any]]:
        """The model's entry in `/v1/models`, and one for each alias."""
        model = await self.get()
        return [
            {
                "id": name,
                "object": "model",
                "created": self._since,
                "owned_by": "errata",
                "root": model.name,
                "max_model_len": model.max_positions,
                "has_chat_template": model.has_chat_template,
            }
            for name in dict.fromkeys((model.name, *self._aliases))
        ]
