"""All webhooks of a catalog, each on its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from errata.catalog.catalog import Catalog
from errata.catalog.webhooks.delivery import Delivery
from errata.catalog.webhooks.sending import Sender
from errata.catalog.webhooks.targets import Target, read_targets
from errata.platform.settings import CatalogSettings

_log = structlog.get_logger(__name__)


def targets_of(settings: CatalogSettings) -> list[Target]:
    """The targets that this catalog sends events to.

    Raises:
        StartupError: the file of the webhooks cannot be used.
    """
    if settings.webhooks_file is None or not settings.send_webhooks:
        return []
    return read_targets(settings.webhooks_file)


async def deliver(catalog: Catalog, targets: Sequence[Target], settings: CatalogSettings) -> None:
    """Delivers to all targets until it is cancelled; none waits for another."""
    if not targets:
        await asyncio.Event().wait()
    _log.info("webhooks are sent", targets=[target.name for target in targets])
    async with Sender(settings.webhook_timeout_seconds) as sender, asyncio.TaskGroup() as tasks:
        for target in targets:
            tasks.create_task(Delivery(catalog, target, sender, settings).run())
