"""Artifacts: content-addressed bytes, from a shared store or from the log service."""

from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource, check_digest, digest_of
from errata.artifacts.store import ArtifactStore

__all__ = ["ArtifactSource", "ArtifactStore", "RemoteArtifacts", "check_digest", "digest_of"]
