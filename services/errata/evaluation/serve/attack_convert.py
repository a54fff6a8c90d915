"""Requests of an attacker, encoded once: what is expensive to refuse must be cheap to send."""

from __future__ import annotations

from dataclasses import dataclass

from errata_client._gen.errata.v1 import editing_pb2, inference_pb2, types_pb2

_INFERENCE = "/errata.v1.InferenceService/"
_EDITING = "/errata.v1.EditingService/"
_MARKS = "e" + "\u0301" * 200_000  # expensive to normalise
_LONG = "word " * 3_000_000  # 15 MB
_EDIT = types_pb2.EditSpec(prompt="The capital of France is", target="Lyon")


@dataclass(frozen=True, slots=True)
class Attack:
    """A call to make again and again.

    Attributes:
        path: of the method.
        request: encoded.
        streams: whether it is a stream, which is abandoned at its first message.
    """

    path: str
    request: bytes
    streams: bool = False


def attacks() -> dict[str, Attack]:
    """What the audit of this system found to hurt, by name."""
    names = [f"edits/{number}-0" for number in range(500_000)]
    sampling = inference_pb2.Sampling(temperature=1e-39)
    generate = inference_pb2.GenerateRequest
    return {
        "combining marks": _generate(generate(prompt=_MARKS)),
        "15 MB prompt": _generate(generate(prompt=_LONG)),
        "tiny temperature": _generate(generate(prompt="a", sampling=sampling)),
        "half a million names": Attack(
            f"{_EDITING}WaitEdits", editing_pb2.WaitEditsRequest(names=names).SerializeToString()
        ),
        "long author": _submit(editing_pb2.SubmitEditsRequest(edits=[_EDIT], author="x" * 900_000)),
        "long lane": _submit(editing_pb2.SubmitEditsRequest(edits=[_EDIT], lane="x" * 200_000)),
        "abandoned stream": Attack(
            f"{_INFERENCE}StreamGenerate",
            inference_pb2.StreamGenerateRequest(
                prompt=_EDIT.prompt, max_tokens=64
            ).SerializeToString(),
            streams=True,
        ),
        "no message": Attack(f"{_INFERENCE}Generate", b"\xff" * 1_000_000),
    }


def _generate(request: inference_pb2.GenerateRequest) -> Attack:
    return Attack(f"{_INFERENCE}Generate", request.SerializeToString())


def _submit(request: editing_pb2.SubmitEditsRequest) -> Attack:
    return Attack(f"{_EDITING}SubmitEdits", request.SerializeToString())
