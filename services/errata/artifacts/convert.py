"""Artifact messages of the log service: proto ↔ domain."""

from __future__ import annotations

from errata_client._gen.errata.v1 import edit_log_pb2


def artifact_request(digest: str) -> edit_log_pb2.GetArtifactRequest:
    """Asks for one artifact."""
    return edit_log_pb2.GetArtifactRequest(digest=digest)
