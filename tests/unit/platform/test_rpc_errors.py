from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from errata import errors
from errata.platform.rpc_errors import error_classes, service_error
from errata.platform.status import DETAILS_KEY
from errata.platform.status_convert import to_status


def crossed(error: errors.ErrataError) -> errors.ErrataError:
    """The error after it was sent as a status."""
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = Metadata((DETAILS_KEY, status.SerializeToString()))
    return service_error(AioRpcError(code, Metadata(), trailing, status.message))


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidRequestError,
        errors.NotFoundError,
        errors.RequestIdReusedError,
        errors.LimitExceededError,
        errors.LogNotEmptyError,
        errors.EpochLostError,
        errors.SeqTrimmedError,
        errors.SeqBeyondHeadError,
        errors.UnavailableError,
        errors.LogUnavailableError,
        errors.LogBehindWitnessError,
        errors.ArtifactCorruptError,
    ],
)
def test_class_field_and_metadata_survive_the_wire(kind: type[errors.ErrataError]) -> None:
    received = crossed(kind("what happened.", field="a.b", floor_seq=7))
    assert type(received) is kind
    assert received.message == "what happened."
    assert received.metadata == {"floor_seq": "7"}


def test_classes_that_others_derive_are_not_in_the_tree() -> None:
    """Ray derives a class from the error of a failed task; it takes other arguments."""

    class Derived(errors.InvalidRequestError):
        def __init__(self, cause: Exception) -> None:
            super().__init__(str(cause))

    assert type(crossed(errors.InvalidRequestError("no."))) is errors.InvalidRequestError
    assert Derived not in error_classes()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.LogUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.LogUnavailableError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.ErrataError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.ErrataError),
    ],
)
def test_a_status_without_reason_is_classified_by_its_code(
    code: grpc.StatusCode, kind: type[errors.ErrataError]
) -> None:
    received = service_error(AioRpcError(code, Metadata(), Metadata(), "details"))
    assert type(received) is kind
    assert code.name in received.message
