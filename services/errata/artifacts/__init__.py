"""Artifacts: content-addressed bytes in a shared store, or fetched from the log service."""

from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource, check_digest, digest_of
from errata.artifacts.store import ArtifactStore

__all__ = ["ArtifactSource", "ArtifactStore", "RemoteArtifacts", "check_digest", "digest_of"]
