"""Bodies of the OpenAI API's requests: what is taken, what is ignored, what is refused.

A parameter that would change the answer and that Errata does not implement is refused, unless its
value is the one that changes nothing. Parameters without an effect on the answer are accepted.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from errata.platform.limits import NAME_CHARS

MAX_CHOICES = 128
"""Most choices of one request: `n` for each prompt."""
_MAX_ALTERNATIVES = 20
_COMPLETION_TOKENS = 16  # the OpenAI API's default for completions
_CANARY_KEY = (
    "Decides which open canaries the request is in; also as the header Errata-Canary-Key. Without "
    "one, safety_identifier or user decides."
)
_OF_A_PERSON = "The canary key of a request that has none; no other effect."
_NAMESPACES = "Namespaces that the request reads; also as the header Errata-Namespace."
_ROLES = ("developer", "system", "user", "assistant", "tool")

# Refused unless the value, which changes nothing, is one of these.
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "verbosity": ("medium",),
    "web_search_options": (),
}


Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Position = Annotated[int, Field(ge=0, lt=2**63)]


class _Body(BaseModel):
    """Unknown keys are errors, and nothing is converted from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _unsupported(message: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported_parameter", "{message}", {"message": message})


def _stop_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _prompt_list(value: Any) -> Any:
    prompts = [value] if isinstance(value, str) else value
    if isinstance(prompts, list) and any(isinstance(item, int | list) for item in prompts):
        raise _unsupported("prompts of token ids are not supported; send text.")
    return prompts


def _joined_text(value: Any) -> Any:
    """A content of text parts as one text."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise _unsupported(f"content of type {kind!r} is not supported; send text parts only.")
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("string_type", "a text part has no text")
        texts.append(part["text"])
    return "".join(texts)


class FunctionCall(_Body):
    """A function and its arguments, a JSON object as text."""

    name: str
    arguments: str = "{}"


class MessageToolCall(_Body):
    """A call that the assistant made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(_Body):
    """One turn; the fields after `tool_call_id` are those of earlier answers, without effect."""

    role: str
    content: Annotated[str | None, BeforeValidator(_joined_text)] = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value not in _ROLES:
            raise PydanticCustomError(
                "role",
                "{value} is no role; use {roles}",
                {"value": repr(value), "roles": ", ".join(_ROLES)},
            )
        return value


class Tool(_Body):
    """A function that the model may call."""

    type: Literal["function"]
    function: dict[str, Any]

    @property
    def json_text(self) -> str:
        """As the template gets it."""
        return json.dumps({"type": self.type, "function": self.function}, ensure_ascii=False)


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="As in vLLM.")
    include_obfuscation: bool | None = Field(None, description="No effect.")


class ErrataOptions(_Body):
    """Errata's own parameters."""

    min_seq: Position | None = Field(None, description="Never answer from an older position.")
    namespaces: list[str] | None = Field(None, description=_NAMESPACES)
    canary_key: str | None = Field(None, description=_CANARY_KEY)


class GenerationBody(_Body):
    """What chat and plain completions share."""

    model: str = Field(description="Name or alias of the served model.")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Number of choices; 1 if unset.")
    stop: Annotated[list[str] | None, BeforeValidator(_stop_list)] = Field(
        None, description="Text or texts before which the answer ends."
    )
    temperature: float | None = Field(None, description="1 if unset; 0 is greedy.")
    top_p: float | None = Field(None, description="1 if unset.")
    top_k: Int32 | None = Field(None, description="All tokens if unset, 0 or -1.")
    seed: int | None = Field(
        None, description="Of the first choice; each further one has the next. Random if unset."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    min_seq: Position | None = Field(None, description="Never answer from an older position.")
    namespaces: list[str] | None = Field(None, description=_NAMESPACES)
    canary_key: str | None = Field(None, description=_CANARY_KEY)
    errata: ErrataOptions | None = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    safety_identifier: Any = Field(None, description=_OF_A_PERSON)
    user: Any = Field(None, description=_OF_A_PERSON)
    metadata: Any = Field(None, description="No effect.")
    service_tier: Any = Field(None, description="No effect.")

    @field_validator("*")
    @classmethod
    def _only_neutral(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if value is not None and name in _NEUTRAL and value not in _NEUTRAL[name]:
            raise _unsupported(f"'{name}' is not supported; leave it out.")
        return value

    @property
    def least_seq(self) -> int | None:
        """The newest position that the body asks for."""
        asked = (self.min_seq, self.errata.min_seq if self.errata else None)
        return max((seq for seq in asked if seq is not None), default=None)

    @property
    def read_namespaces(self) -> list[str]:
        """The namespaces that the body names."""
        of_errata = self.errata.namespaces if self.errata else None
        return [*(self.namespaces or ()), *(of_errata or ())]

    @property
    def read_canary_key(self) -> str:
        """The key that the body names, or whoever it says that it is from; else empty."""
        of_errata = self.errata.canary_key if self.errata else None
        return of_errata or self.canary_key or self._person

    @property
    def _person(self) -> str:
        """Whom the OpenAI API's own fields name, in a form that a key can have."""
        for name in ("safety_identifier", "user"):
            found = getattr(self, name)
            if isinstance(found, str) and found:
                is_short = len(found) <= NAME_CHARS
                return found if is_short else hashlib.sha256(found.encode()).hexdigest()
        return ""

    @property
    def streamed_usage(self) -> Literal["never", "last", "always"]:
        """Which chunks of a stream have the numbers of tokens."""
        options = self.stream_options
        if options is None or not options.include_usage:
            return "never"
        return "always" if options.continuous_usage_stats else "last"


class ChatBody(GenerationBody):
    """Body of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Int32 | None = Field(
        None, description="What the model's window leaves if unset."
    )
    max_tokens: Int32 | None = Field(None, description="The old name of max_completion_tokens.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=_MAX_ALTERNATIVES)
    tools: list[Tool] | None = None
    tool_choice: Any = None
    add_generation_prompt: bool | None = Field(None, description="As in vLLM.")
    continue_final_message: bool | None = Field(None, description="As in vLLM.")
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    parallel_tool_calls: Any = Field(None, description="No effect.")
    prediction: Any = Field(None, description="No effect.")
    prompt_cache_key: Any = Field(None, description="No effect.")
    store: Any = Field(None, description="No effect.")

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise PydanticCustomError("top_logprobs", "it needs logprobs: true")
        return value

    @field_validator("max_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_completion_tokens") not in (None, value):
            raise PydanticCustomError("max_tokens", "it contradicts max_completion_tokens")
        return value

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens of the answer; None takes what the window leaves."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_alternatives(self) -> int | None:
        """Alternatives of each token; None without log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(GenerationBody):
    """Body of `/v1/completions`."""

    prompt: Annotated[list[str], BeforeValidator(_prompt_list)] = Field(
        min_length=1, description="Text or texts to continue."
    )
    max_tokens: Int32 | None = Field(None, description="16 if unset.")
    logprobs: int | None = Field(None, ge=0, le=_MAX_ALTERNATIVES)
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    @property
    def wanted_tokens(self) -> int:
        """Most tokens of each continuation."""
        return _COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_alternatives(self) -> int | None:
        """Alternatives of each token; None without log-probabilities."""
        return self.logprobs
