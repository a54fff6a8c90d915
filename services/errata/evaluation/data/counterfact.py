"""CounterFact (Meng et al., 2022), in the original nested layout or the flat one."""

from __future__ import annotations

from pathlib import Path

from errata.evaluation.data.fields import Fields, check_subject, read_array
from errata.evaluation.data.record import Record


def load_counterfact(path: Path) -> list[Record]:
    """Reads a JSON array of counterfactuals; a file can mix records of both layouts.

    Flat: `prompt`, `subject`, `target_new`, `ground_truth`, `rephrase_prompt`, `locality_prompt`,
    `locality_ground_truth`. Nested: `requested_rewrite`, `paraphrase_prompts`,
    `neighborhood_prompts`, optional `generation_prompts`; the neighbours share the true object.
    Both: optional `paraphrases`, of `errata bench paraphrase`.

    Raises:
        InvalidRequestError: the message names file, record and field.
    """
    return [
        (_nested if "requested_rewrite" in fields else _flat)(fields, number)
        for number, fields in enumerate(read_array(path))
    ]


def _flat(fields: Fields, number: int) -> Record:
    record = Record(
        case_id=str(fields.number("case_id") if "case_id" in fields else number),
        prompt=fields.text("prompt"),
        subject=fields.text("subject"),
        target_new=fields.text("target_new"),
        target_true=fields.text("ground_truth"),
        rephrases=(fields.text("rephrase_prompt"), *fields.optional_texts("paraphrases")),
        locality=((fields.text("locality_prompt"), fields.text("locality_ground_truth")),),
    )
    check_subject(fields, record.subject, record.prompt)
    return record


def _nested(fields: Fields, _: int) -> Record:
    rewrite = fields.inner("requested_rewrite")
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if template.count("{}") != 1:
        raise rewrite.error("prompt", "must contain {} once, for the subject")
    true = rewrite.inner("target_true").text("str")
    return Record(
        case_id=str(fields.number("case_id")),
        prompt=template.replace("{}", subject),
        subject=subject,
        target_new=rewrite.inner("target_new").text("str"),
        target_true=true,
        rephrases=(*fields.texts("paraphrase_prompts"), *fields.optional_texts("paraphrases")),
        locality=tuple((prompt, true) for prompt in fields.texts("neighborhood_prompts")),
        generation_prompts=fields.optional_texts("generation_prompts"),
        relation=rewrite.text("relation_id") if "relation_id" in rewrite else "",
    )
