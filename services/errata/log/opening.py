"""Opens the log: checks Redis and the witness, and adopts what other services appended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from errata.artifacts import ArtifactStore
from errata.errors import LogBehindWitnessError, LogUnavailableError, StartupError
from errata.log.acknowledged import Acknowledged, warn
from errata.log.admission import Admission
from errata.log.archive.records import Records
from errata.log.backend import RedisBackend
from errata.log.history import advance, open_history
from errata.log.witness import Witness, WitnessFile, WitnessRecord
from errata.platform.failpoints import failpoint_async
from errata.platform.settings import LogSettings


@dataclass(frozen=True, slots=True)
class LogParts:
    """What an open log consists of.

    Attributes:
        records: the entries, in Redis and in the archive.
        known: everything that Redis held, verified.
        admission: the fold of the entries up to there.
        acknowledged: as far as Redis cannot lose it any more.
    """

    records: Records
    known: WitnessRecord
    admission: Admission
    acknowledged: Acknowledged


@asynccontextmanager
async def opening(settings: LogSettings) -> AsyncIterator[tuple[WitnessFile, RedisBackend]]:
    """Witness and checked Redis; both are closed again only if the body fails.

    Raises:
        StartupError: Redis cannot be reached or is not durable, or another service owns the
            witness.
    """
    file = await asyncio.to_thread(WitnessFile, settings.witness_path)
    backend = None
    try:
        backend = RedisBackend(settings)
        await backend.check_configuration()
        yield file, backend
    except BaseException as error:
        if backend is not None:
            await backend.close()
        file.close()
        if isinstance(error, LogUnavailableError):
            cause = str(error.__cause__ or error.message).rstrip(".")
            raise StartupError(
                f"the log cannot be opened: {cause}. Check that Redis is running and answers "
                "at log.redis_url.",
                address=backend.address if backend else "",
            ) from error
        raise


async def open_parts(settings: LogSettings, artifacts: ArtifactStore | None) -> LogParts:
    """Opens Redis and the witness; leaves nothing open after an error.

    Raises:
        StartupError, LogNotEmptyError, LogBehindWitnessError: as `RedisLog.open`.
    """
    async with opening(settings) as (file, backend):
        records = Records(backend, artifacts)
        try:
            base = await open_history(
                records, file.record, adopt_unwitnessed=settings.adopt_unwitnessed
            )
            if file.record is None and settings.adopt_unwitnessed:
                await backend.forget_warning()  # the operator's word counts for all services
            known, _ = await advance(records, base)
        except LogBehindWitnessError:
            if file.record is not None:
                await warn(backend, file.record)
            raise
        admission = Admission(records)
        await admission.catch_up(known.head)
        acknowledged = known if await backend.confirm(known) else base
        witness = Witness(file, acknowledged)
        await failpoint_async("log.open.before_witness")
        await witness.cover(acknowledged)
    return LogParts(records, known, admission, Acknowledged(backend, witness, acknowledged))
