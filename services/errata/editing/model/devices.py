"""Fast arithmetic by device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are faster than in fp32 on a device.

    A CPU needs tile units (AMX) for this. With bf16 vector instructions alone (AVX-512), bf16 takes
    twice the time of fp32.
    """
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@contextmanager
def fast_training(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """A context in which passes compute products in bf16, if requested; weights keep their dtype.

    On a CPU, the fused attention kernel is disabled. It is made for long texts: on a few dozen
    tokens, with a mask and gradients, it takes more time than all other parts of a step.
    """
    with ExitStack() as stack:
        if bf16:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
