"""Bad input: refusals name the field, the limit and the remedy."""

import uuid
from dataclasses import replace

import pytest

from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.errors import (
    ErrataError,
    InvalidEditError,
    InvalidRequestError,
    LimitExceededError,
)
from errata.platform.settings import WriterSettings
from errata.writer.intake import Draft, accept, check_lane_takes, check_request_id
from tests.integration.log import entries

LIMITS = WriterSettings(max_edits_per_request=3, max_target_tokens=8, max_prompt_tokens=40)


def _draft(**fields: object) -> Draft:
    values: dict[str, object] = {
        "prompt": "The capital of France is",
        "target": "Lyon",
        "subject": "France",
        "rephrases": (),
        "locality_probes": (),
        "source": "",
    }
    return Draft(**{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"prompt": ""}, "edits[0].prompt", "empty"),
        ({"prompt": " \n"}, "edits[0].prompt", "empty"),
        ({"target": ""}, "edits[0].target", "empty"),
        ({"target": "Lyon " * 40}, "edits[0].target", "tokens; the limit is 8"),
        ({"prompt": "word " * 60 + "France"}, "edits[0].prompt", "the limit is 40"),
        ({"prompt": "x" * 5_000}, "edits[0].prompt", "characters; the limit is 4,000"),
        ({"subject": "Spain"}, "edits[0].subject", "'Spain' does not occur"),
        ({"prompt": "The capital\x00 of France is"}, "edits[0].prompt", r"U\+0000 at 11"),
        ({"target": "Ly\x1bon"}, "edits[0].target", r"U\+001B at 2"),
        ({"target": "Ly\ud800on"}, "edits[0].target", r"U\+D800 at 2"),
        ({"rephrases": ("",)}, "edits[0].rephrases[0]", "empty"),
        ({"locality_probes": ("a", "\x07")}, "edits[0].locality_probes[1]", r"U\+0007"),
        ({"prompt": "it is what it is", "subject": ""}, "edits[0].subject", "give the subject"),
    ],
)
def test_an_unusable_edit_is_refused_with_field_and_remedy(
    shared_model: CausalLM, fields: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(InvalidEditError, match=message) as caught:
        accept([_draft(**fields)], shared_model, LIMITS)
    assert caught.value.field == field


def test_a_request_that_contradicts_itself_is_refused_with_both_names(
    shared_model: CausalLM,
) -> None:
    other = _draft(prompt="The capital of Spain is", subject="Spain")
    with pytest.raises(InvalidEditError, match=r"edits\[0\] and edits\[2\]") as caught:
        accept([_draft(), other, _draft(target="Nice")], shared_model, LIMITS)
    assert caught.value.field == "edits[2].target"
    spaced = _draft(prompt=f"{_draft().prompt} ", target="Nice")
    with pytest.raises(InvalidEditError, match="for the same prompt"):
        accept([_draft(), spaced], shared_model, LIMITS)
    assert len(accept([_draft(), _draft()], shared_model, LIMITS)) == 2, (
        "a repeat is no contradiction"
    )


def test_lanes_of_unknown_methods_do_not_stop_edits_of_other_lanes() -> None:
    lanes = [entries.lane("lanes/a"), entries.lane("lanes/b", method="of-a-newer-release")]
    edit = Edit("edits/1-0", "Lyon is in", "Spain", "Lyon")
    check_lane_takes([edit], "lanes/a", lanes)
    with pytest.raises(InvalidEditError, match="configure a lane that routes"):
        check_lane_takes([replace(edit, namespace="acme")], "lanes/a", lanes)
    with pytest.raises(InvalidEditError, match="namespace is acme, but"):
        check_lane_takes([replace(edit, namespace="acme~july")], "lanes/a", lanes)


def test_the_second_edit_is_named_when_it_is_at_fault(shared_model: CausalLM) -> None:
    with pytest.raises(InvalidEditError) as caught:
        accept([_draft(), _draft(target="")], shared_model, LIMITS)
    assert caught.value.field == "edits[1].target"


@pytest.mark.parametrize(
    ("drafts", "error"),
    [
        ([], InvalidRequestError),
        ([_draft()] * 4, LimitExceededError),
        ([_draft(rephrases=("a",) * 33)], LimitExceededError),
    ],
)
def test_limits_of_a_request_are_enforced(
    shared_model: CausalLM, drafts: list[Draft], error: type[ErrataError]
) -> None:
    with pytest.raises(error):
        accept(drafts, shared_model, LIMITS)


@pytest.mark.parametrize(
    "request_id",
    [
        "",
        "1",
        "not-a-uuid",
        "6f0ed5f2-4f0c-5c39-9d4f",
        str(uuid.uuid5(uuid.NAMESPACE_DNS, "commit")),
    ],
)
def test_a_request_id_must_be_a_random_uuid(request_id: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_request_id(request_id)
    assert caught.value.field == "request_id"


def test_text_is_normalised_and_the_target_stripped(shared_model: CausalLM) -> None:
    (edit,) = accept(
        [_draft(prompt="The capital of Me\u0301xico is", subject="Me\u0301xico", target=" Lyon ")],
        shared_model,
        LIMITS,
    )
    assert edit.prompt == "The capital of México is"
    assert edit.subject == "México"
    assert edit.target == "Lyon"


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of France is", "France"),
        ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux"),
        ("The official religion of Edwin of Northumbria is", "Edwin of Northumbria"),
        ("What is the twin city of Lyon? It is", "Lyon"),
        ("In 1912, the Titanic met", "Titanic"),
        ("The Nile flows into", "Nile"),
        ("Élodie Durand speaks", "Élodie Durand"),
    ],
)
def test_a_missing_subject_is_the_longest_name(
    shared_model: CausalLM, prompt: str, subject: str
) -> None:
    (edit,) = accept([_draft(prompt=prompt, subject="")], shared_model, LIMITS)
    assert edit.subject == subject


def test_rephrases_and_probes_must_leave_room_for_their_continuations(
    shared_model: CausalLM,
) -> None:
    """Prompt and target fit together; this rephrase and the target do not."""
    limits = WriterSettings(max_prompt_tokens=100_000, max_prompt_chars=100_000)
    words = "one two three " * shared_model.max_positions
    ids = shared_model.tokenizer(words)["input_ids"][: shared_model.max_positions - 1]
    rephrase = shared_model.tokenizer.decode(ids, skip_special_tokens=True)
    draft = _draft(target="Lyon by the sea and under the sun", rephrases=(rephrase,))
    with pytest.raises(InvalidEditError, match="the model takes") as caught:
        accept([draft], shared_model, limits)
    assert caught.value.field == "edits[0].rephrases[0]"
    with pytest.raises(InvalidEditError, match="the limit is") as caught:
        accept([_draft(locality_probes=(rephrase,))], shared_model, limits)
    assert caught.value.field == "edits[0].locality_probes[0]"
    probe = shared_model.tokenizer.decode(ids[:-3], skip_special_tokens=True)
    accept([_draft(locality_probes=(probe,))], shared_model, limits)


def test_a_given_separator_is_kept_and_must_be_white_space(shared_model: CausalLM) -> None:
    (edit,) = accept([_draft(separator="")], shared_model, LIMITS)
    assert edit.separator == ""
    (edit,) = accept([_draft()], shared_model, LIMITS)
    assert edit.separator is None
    with pytest.raises(InvalidEditError, match="white space") as caught:
        accept([_draft(separator=" is ")], shared_model, LIMITS)
    assert caught.value.field == "edits[0].separator"


def test_the_field_at_fault_does_not_depend_on_what_the_edit_says(shared_model: CausalLM) -> None:
    """The field was once guessed from the message, which quotes the prompt."""
    limits = WriterSettings(max_prompt_tokens=100_000, max_prompt_chars=100_000)
    long = _draft(prompt="The subject of France is " * shared_model.max_positions)
    with pytest.raises(InvalidEditError, match="the model takes") as caught:
        accept([long], shared_model, limits)
    assert caught.value.field == "edits[0].prompt"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "France a" + "\u0301\u0316" * 16}, "edits[0].prompt"),
        ({"target": "a" + "\u0316\u0301" * 16}, "edits[0].target"),
        ({"rephrases": ("In France a" + "\u0301" * 31,)}, "edits[0].rephrases[0]"),
    ],
)
def test_stacked_marks_are_refused_before_they_are_normalised(
    shared_model: CausalLM, fields: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidEditError, match="combining marks in a row") as caught:
        accept([_draft(**fields)], shared_model, LIMITS)
    assert caught.value.field == field
