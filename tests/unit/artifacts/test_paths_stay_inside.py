"""Errors of the artifact store reach any client; they name no place of the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from errata.artifacts.store import ArtifactStore
from errata.errors import ArtifactCorruptError, ErrataError, NotFoundError, UnavailableError

DIGEST = "ab" * 32


def _error(store: ArtifactStore, kind: type[ErrataError]) -> ErrataError:
    with pytest.raises(kind) as caught:
        store.load(DIGEST)
    return caught.value


def test_errors_name_no_paths(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    found: list[ErrataError] = [_error(store, NotFoundError)]
    file = Path(store.path_of(DIGEST))
    file.parent.mkdir()
    file.write_bytes(b"other bytes")
    with capture_logs() as logs:
        found.append(_error(store, ArtifactCorruptError))
        file.unlink()
        file.mkdir()  # cannot be read as a file
        found.append(_error(store, UnavailableError))
    for error in found:
        assert str(tmp_path) not in f"{error.message} {error.metadata}"
    assert str(file) in logs[0]["path"]
    assert str(tmp_path) in logs[1]["url"]
