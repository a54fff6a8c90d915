"""A generation in the running batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from errata.editing.effects.plan import RowPlan
from errata.engine.job import Job
from errata.engine.sequence import GenerationRequest, GrowingText, Piece, TokenChoice
from errata.engine.serving_state import PendingPlan, ServingState


@dataclass(eq=False, slots=True)
class Weights:
    """One version of the edited weights.

    Attributes:
        version: grows with each change of weights.
        tensors: the down projections, as pointers.
    """

    version: int
    tensors: list[Tensor]


@dataclass(eq=False, slots=True)
class Row:
    """A generation in the running batch.

    Attributes:
        job: its request and where results go.
        request: of the job.
        state: it is computed under this state, from first to last token.
        weights: of that state.
        plan: final, or valid until `pending` is completed.
        text: of the new tokens.
        num_left: entries that prefill has not read yet.
        pending: the decision that its prefill completes; None if the plan is final.
        edits: names of the edits that shaped it.
        choices: tokens since the last piece, if the request asked for them.
        unsent: text that was made and not sent yet.
    """

    job: Job
    request: GenerationRequest
    state: ServingState
    weights: Weights
    plan: RowPlan
    text: GrowingText
    num_left: int
    pending: PendingPlan | None = None
    edits: tuple[str, ...] = ()
    choices: list[TokenChoice] = field(default_factory=list)
    unsent: str = ""

    @property
    def group(self) -> tuple[int, bool]:
        """Rows of one group are contiguous; groups are in ascending order."""
        return (self.weights.version, self.num_left > 0)

    @property
    def is_inspected(self) -> bool:
        """Whether each token has to be looked at when it is made."""
        r = self.request
        return r.streaming or bool(r.stop) or r.num_alternatives is not None

    def take_piece(self, text: str, reason: str, num_tokens: int) -> Piece:
        """What is sent next; token choices and unsent text are cleared."""
        choices = tuple(self.choices)
        self.choices.clear()
        self.unsent = ""
        num_prompt = len(self.request.prompt_ids)
        version, cut = self.state.version, self.plan.cut
        return Piece(text, num_prompt, num_tokens, reason, version, self.edits, cut, choices)
