"""Asks a chat model for facts in several phrasings, and writes which of them it says in all.

    python tools/known_facts.py MODEL --output build/known.json
    python tools/known_facts.py MODEL --check

Each fact of `tools/smollm2_candidates.toml` is asked in plain texts, which the model continues, and
in questions, which its chat template renders. Answers are greedy. An answer says a fact if, of the
relation's objects, it names the fact's first. `--check` asks only for the facts that the edits in
`services/errata/demo/smollm2/edits.toml` need, and fails unless the model says each in every
phrasing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise_all
from errata.engine.offline import generate

ROOT = Path(__file__).resolve().parent.parent
CANDIDATES = ROOT / "tools/smollm2_candidates.toml"
EDITS = ROOT / "services/errata/demo/smollm2/edits.toml"
_NUM_TOKENS = 24
_ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact, and the texts and questions that ask for it.

    Attributes:
        relation: its name in the file.
        subject: occurs in every text and question.
        answer: the object.
        others: the other objects of the relation.
        texts: plain texts that the object continues.
        questions: for a chat.
    """

    relation: str
    subject: str
    answer: str
    others: frozenset[str]
    texts: tuple[str, ...]
    questions: tuple[str, ...]


def facts(path: Path = CANDIDATES) -> Iterator[Fact]:
    """Yields the facts of a file, in its order."""
    for relation, content in tomllib.loads(path.read_text("utf-8")).items():
        objects = frozenset(content["facts"].values())
        for subject, answer in content["facts"].items():
            texts, questions = (
                tuple(phrasing.format(subject=subject) for phrasing in content[kind])
                for kind in ("texts", "questions")
            )
            yield Fact(relation, subject, answer, objects - {answer}, texts, questions)


def says(answer: str, fact: Fact) -> bool:
    """Whether an answer names the fact's object, and no other object of the relation before it."""
    return demo.says(answer, fact.answer, *fact.others)


def ask(llm: CausalLM, asked: Sequence[Fact]) -> list[list[str]]:
    """The answers to each fact's texts and questions, in this order; texts end with their line."""
    prompts = [
        ids for fact in asked for ids in (*_plain(llm, fact.texts), *_chats(llm, fact.questions))
    ]
    continued = [
        ids
        for first in range(0, len(prompts), _ROWS_AT_ONCE)
        for ids in generate(llm, prompts[first : first + _ROWS_AT_ONCE], _NUM_TOKENS)
    ]
    answers = iter(_text(llm, ids) for ids in continued)
    return [
        [next(answers).partition("\n")[0] for _ in (*fact.texts, *fact.questions)] for fact in asked
    ]


def _plain(llm: CausalLM, texts: Iterable[str]) -> list[Sequence[int]]:
    return [row.ids for row in tokenise_all(llm, [(text, "") for text in texts])]


def _chats(llm: CausalLM, questions: Iterable[str]) -> list[Sequence[int]]:
    tokenizer = llm.tokenizer
    rendered = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    )
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]


def _text(llm: CausalLM, ids: Sequence[int]) -> str:
    """The text up to the first end token, without surrounding blanks."""
    size = next((n for n, token in enumerate(ids) if token in llm.end_ids), len(ids))
    return str(llm.tokenizer.decode(ids[:size], skip_special_tokens=True)).strip()


def needed(edits: dict[str, Any], known: Sequence[Fact]) -> list[Fact]:
    """The facts that edits change, and those beside them that must stay.

    Raises:
        KeyError: a fact is no candidate.
    """
    by_name = {(fact.relation, fact.subject): fact for fact in known}
    return [
        by_name[edit["relation"], subject]
        for edit in edits["edits"]
        for subject in (edit["subject"], *(near["subject"] for near in edit["neighbours"]))
    ]


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="folder, made by `errata model import smollm2 FOLDER`")
    parser.add_argument("--output", type=Path, help="receives every answer (JSON)")
    parser.add_argument("--check", action="store_true", help="ask only for what the edits need")
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    llm = CausalLM.load(given.model)
    asked = list(facts())
    if given.check:
        asked = needed(tomllib.loads(EDITS.read_text("utf-8")), asked)
    found = [
        {
            "relation": fact.relation,
            "subject": fact.subject,
            "object": fact.answer,
            "said": [says(answer, fact) for answer in answers],
            "answers": answers,
        }
        for fact, answers in zip(asked, ask(llm, asked), strict=True)
    ]
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return _report(found, len(asked[0].texts) + len(asked[0].questions), strict=given.check)


def _report(found: Sequence[dict[str, Any]], most: int, *, strict: bool) -> int:
    """Prints counts and the facts said in all phrasings; 1 if `strict` and one is not."""
    out = Console(highlight=False, markup=False, soft_wrap=True)
    counts = Counter(sum(row["said"]) for row in found)
    for number in range(most, -1, -1):
        out.print(f"said in {number} of {most} phrasings: {counts[number]} of {len(found)} facts")
    for relation in dict.fromkeys(row["relation"] for row in found):
        rows = [row for row in found if row["relation"] == relation]
        known = [row["subject"] for row in rows if all(row["said"])]
        out.print(f"{relation}: {len(known)} of {len(rows)} in all: {', '.join(known)}")
    missed = [row for row in found if not all(row["said"])]
    if strict:
        for row in missed:
            out.print(f"not said: {row['relation']} of {row['subject']}: {row['answers']}")
    return int(strict and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
