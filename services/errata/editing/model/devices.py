"""What a device is good at, and passes that make use of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def has_fast_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32 there.

    On a CPU tile units are needed. One that merely knows bf16 in its vectors (AVX-512) takes twice
    the time of fp32 for it.
    """
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@contextmanager
def fast_training(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Passes inside compute products in bf16 if wanted; weights stay as they are.

    On a CPU they do without the fused attention kernel. It is made for long texts: on a few dozen
    tokens, with a mask and gradients, it takes more time than all the rest of a step.
    """
    with ExitStack() as stack:
        if bf16:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
