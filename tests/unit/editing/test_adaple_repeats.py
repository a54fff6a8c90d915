"""Repeated edits of one fact, and prompts of the model's maximum length."""

from __future__ import annotations

from dataclasses import replace

import pytest

from errata.editing.adaple.config import AdapleConfig
from errata.editing.artifact import Artifact
from errata.editing.model.prompts import tokenise
from errata.errors import ArtifactCorruptError
from tests.unit.editing.lanes import adaple_bench
from tests.unit.editing.tiny_models import TextResources, make_model

CONFIG = AdapleConfig(
    layers=(1, 2), num_prefixes=1, prefix_tokens=3, steps=5, clamp=6.0, step_size=0.3, gain=20.0
)


@pytest.mark.promise("P11")
def test_a_repeated_edit_and_the_first_one_are_independent_of_each_others_revert(
    resources: TextResources,
) -> None:
    """The second edit of a fact is fitted on weights without the first, and replaces it."""
    both, one = (adaple_bench(make_model("llama"), CONFIG, resources) for _ in range(2))
    question = ("Lyon is twinned with", "Pisa")
    first = both.edit(question)
    only_first = both.lane.digest()
    second = both.edit(question, seed=2)
    assert second.artifact.metadata["replaced"] == '[["edits/2-0"]]'
    only_second = both.lane.digest()
    one.lane.prepare(second).apply()
    assert one.lane.digest() == only_second
    assert only_first != only_second
    undo = both.revert(*first.edits)
    assert both.lane.digest() == only_second, "the revert of the first one changes nothing"
    undo()
    both.revert(*second.edits)
    assert both.lane.digest() == only_first, "the first one acts again"
    both.edit(("Lyon is", "blue"))
    third = both.edit(("Lyon is twinned with ", "Nokia"))
    assert third.artifact.metadata["replaced"] == '[["edits/2-0"]]', (
        "a trailing blank does not change the fact"
    )


def test_a_commit_of_an_older_version_has_no_facts_and_replaces_nothing(
    resources: TextResources,
) -> None:
    lane = adaple_bench(make_model("llama"), CONFIG, resources)
    commit = lane.fit(("Lyon is twinned with", "Pisa"))
    older = {k: v for k, v in commit.artifact.metadata.items() if k not in ("facts", "replaced")}
    lane.lane.prepare(replace(commit, artifact=Artifact(commit.artifact.tensors, older))).apply()
    later = lane.fit(("Lyon is twinned with", "Pisa"))
    later = replace(later, seq=9, edits=("edits/9-0",))
    assert later.artifact.metadata["replaced"] == "[[]]"
    for bad in ("[", "{}", "[[], []]", "[1]", '["ab"]', "[[1]]"):
        wrong = Artifact(later.artifact.tensors, {**later.artifact.metadata, "replaced": bad})
        with pytest.raises(ArtifactCorruptError, match="replaced"):
            lane.lane.prepare(replace(later, artifact=wrong))


def test_contexts_that_leave_no_room_for_the_prompt_are_omitted(resources: TextResources) -> None:
    """Prompt and target fill the model's 64 positions, so no context fits."""
    lane = adaple_bench(make_model("llama"), CONFIG, resources)
    filler = "Lyon " + "is " * 80
    ids = lane.llm.tokenizer(filler)["input_ids"]
    prompt = lane.llm.tokenizer.decode(ids[:62], skip_special_tokens=True)
    row = tokenise(lane.llm, prompt, "Pisa")
    assert row.num_target + 62 <= lane.llm.max_positions < 62 + row.num_target + 4
    lane.edit((prompt, "Pisa"))
