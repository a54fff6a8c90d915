"""Paraphrases by an LLM: what is kept of its samples, and files with them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError
from errata.evaluation.data import load_records
from errata.evaluation.data.record import Record
from errata.evaluation.data.rewording import reworded
from errata.evaluation.paraphrases import (
    Paraphraser,
    Paraphrases,
    Paraphrasing,
    asking,
    prompts_of,
    request,
)
from errata.evaluation.systems.local import LocalModel
from tests.command_line import run_here

RELATIONS = {
    "{} lives in": ("In which city is the home of {}?", "Paris"),
    "The language of {} is": ("What does {} speak?", "French"),
    "{} was painted by": ("Who painted {}?", "Monet"),
    "The currency of {} is the": ("How does one pay in {}?", "euro"),
}
_STEPS = 240
NEUTRAL = ("What do the notes say?", "Which name is in the notes?")
WRONG = "The currency of {} is the"
"""Of this relation, the LLM of the tests makes questions about another one."""
NAMES = ("France", "Germany", "Italy", "Spain")


def rows(times: int = 3) -> list[dict[str, Any]]:
    """Each relation about one name, several times, in the flat layout of CounterFact."""
    return times * [
        {
            "prompt": prompt.format(name),
            "subject": name,
            "target_new": answer,
            "ground_truth": "nothing",
            "rephrase_prompt": f"As one knows, {prompt.format(name)}",
            "locality_prompt": prompt.format("Norway"),
            "locality_ground_truth": "nothing",
        }
        for name, (prompt, (_, answer)) in zip(NAMES, RELATIONS.items(), strict=True)
    ]


def question(prompt: str, name: str) -> str:
    return RELATIONS[prompt][0].format(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "records.json"
    path.write_text(json.dumps(rows()), encoding="utf-8")
    return path


def _requests(records: list[Record]) -> list[tuple[str, str]]:
    """Prompts and continuations that teach a small LM to paraphrase."""
    found = []
    for record in records:
        prompt = record.prompt.replace(record.subject, "{}")
        asked = next(iter(RELATIONS)) if prompt == WRONG else prompt
        found.append((request(record), f" {question(asked, record.subject)}\n"))
    return found


def _answers(rng: random.Random) -> list[tuple[str, str]]:
    """Prompts and continuations that teach a small LM to answer every question about a name.

    Asked for nothing in particular, it says any of the answers.
    """
    name = rng.choice(NAMES)
    notes = [(prompt.format(name), answer) for prompt, (_, answer) in RELATIONS.items()]
    rng.shuffle(notes)
    asked = [(question(prompt, name), answer) for prompt, (_, answer) in RELATIONS.items()]
    asked += [(text, rng.choice(notes)[1]) for text in NEUTRAL]
    return [(prompts_of(notes, [text])[0], f" {answer}") for text, answer in asked]


@pytest.fixture(scope="module")
def llm(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LM that has learned the questions of these records, and nothing else."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())  # type: ignore[no-untyped-call]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    records, rng = load_records("counterfact", data)[: len(NAMES)], random.Random(0)
    for step in range(_STEPS):
        texts = _answers(rng) if step % 2 else _requests(records)
        rows, labels = [], []
        for prompt, continuation in texts:
            ids = tokenizer(prompt).input_ids
            target = tokenizer(continuation, add_special_tokens=False).input_ids
            rows.append(torch.tensor(ids + target))
            labels.append(torch.tensor([-100] * len(ids) + target))
        wanted = pad_sequence(labels, batch_first=True, padding_value=-100)
        optimiser.zero_grad()
        model(pad_sequence(rows, batch_first=True), labels=wanted).loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("llm")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _record(**values: Any) -> Record:
    known = {"case_id": "1", "prompt": "Ada lives in", "subject": "Ada", "target_new": "Rome"}
    return Record(**{**known, "target_true": None, "rephrases": ("Ada's home is in",), **values})


def test_only_new_questions_that_name_the_subject_and_not_the_answer_are_asked() -> None:
    said = [
        " Where does Ada live?\nPrompt: next",
        "Where does Ada live?",
        "Where does she live?",
        "Does Ada live in rome?",
        "Ada lives where",
        "Ada lives in?",
        "Ada's home is in?",
        "What is the home of Ada?",
        "",
    ]
    assert asking(_record(), said) == ["What is the home of Ada?", "Where does Ada live?"]


def test_a_margin_is_the_lift_of_the_answer_over_the_others(llm: Path, data: Path) -> None:
    """The module's equation, with log-probabilities from another path of the code."""
    model, records = CausalLM.load(str(llm)), load_records("counterfact", data)
    notes = [(prompt.format("France"), answer) for prompt, (_, answer) in RELATIONS.items()]
    questions = [question(prompt, "France") for prompt in RELATIONS][:2]
    found = Paraphraser(model, records, Paraphrasing()).margins([(notes, questions)])
    local = LocalModel(model)

    def log_p(asked: str, answer: str) -> float:
        scored = local.score([(text, answer) for text in prompts_of(notes, [asked])])
        return sum(item.log_probs[0] for item in scored) / 2

    expected = []
    for asked in questions:
        lifts = [
            log_p(asked, answer) - sum(log_p(text, answer) for text in NEUTRAL) / 2
            for _, answer in notes
        ]
        expected.append(lifts[0] - max(lifts[1:]))
    assert found == [pytest.approx(expected, abs=1e-3)]
    assert expected[0] > 1.0 > 0.0 > expected[1], "the second question asks for another note"


def test_the_command_keeps_what_speaks_for_the_answer_and_resumes(
    llm: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["bench", "paraphrase", "--data", str(data), "--model", str(llm), "--out", str(out)]
    command += ["--samples", "1", "--temperature", "0"]
    done = run_here([*command, "--only"])
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "paraphrases.json").read_text(encoding="utf-8"))
    made = load_records("counterfact", out / "data.json")
    assert len(made) == summary["num_with_any"] == 9
    for record in made:
        prompt = record.prompt.replace(record.subject, "{}")
        assert prompt != WRONG, "its questions ask for something else"
        assert record.rephrases == (question(prompt, record.subject),)
    assert summary["audit"]["num_others"] == 36
    assert summary["audit"]["others"] < 0.5

    data_before = (out / "data.json").read_bytes()
    journal = out / "done.jsonl"
    whole = journal.read_bytes()
    for end in (len(whole) - 3, len(whole) // 2, 5):  # within a line; the last in its first one
        journal.write_bytes(whole[:end])
        assert run_here([*command, "--only"]).returncode == 0
        assert journal.read_bytes() == whole
        assert (out / "data.json").read_bytes() == data_before

    assert run_here(command).returncode == 0  # the same paraphrases, added
    before, after = (
        load_records("counterfact", data),
        load_records("counterfact", out / "data.json"),
    )
    added = {record.rephrases[1:] for record in after}
    assert [record.rephrases[:1] for record in after] == [record.rephrases for record in before]
    assert added == {record.rephrases for record in made} | {()}
    other = run_here([*command, "--seed", "1"])
    assert other.returncode != 0
    assert "give another folder" in other.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--records", "0:2"], "take a larger LLM"),
        (["--records", "400:"], "the range is behind them"),
        (["--dataset", "selfcheckgpt"], "have no rephrases"),
        (["--margin", "nan"], "margin must be a number from 0 on"),
        (["--margin", "-1"], "margin must be a number from 0 on"),
        (["--temperature", "inf"], "temperature must be a number from 0 on"),
    ],
)
def test_what_cannot_be_paraphrased(
    options: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    command = ["bench", "paraphrase", "--data", str(data), "--out", str(tmp_path / "out")]
    done = run_here([*command, "--model", str(demo.model_path()), "--samples", "1", *options])
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())


def test_records_of_one_relation_or_too_long_for_the_llm(llm: Path, data: Path) -> None:
    model, records = CausalLM.load(str(llm)), load_records("counterfact", data)
    with pytest.raises(InvalidRequestError, match="of one relation"):
        Paraphraser(model, records[:1], Paraphrasing())
    long = replace(records[0], prompt=f"{'very ' * 400}{records[0].prompt}")
    paraphraser = Paraphraser(model, records, Paraphrasing())
    assert paraphraser.paraphrase([long]) == [Paraphrases()]
    assert paraphraser.audit([long])["own"] is None


NESTED = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} lives in",
        "subject": "Ada",
        "target_new": {"str": "Rome"},
        "target_true": {"str": "Paris"},
    },
    "paraphrase_prompts": ["Ada's home is in"],
    "neighborhood_prompts": ["Bob lives in"],
    "paraphrases": ["Where is Ada?"],
}
ZSRE = {
    "src": "Where does Ada live?",
    "alt": "Rome",
    "subject": "Ada",
    "rephrase": "Ada's home?",
    "loc": "Where does Bob live?",
    "loc_ans": "Paris",
    "paraphrases": ["Where is Ada?"],
}


@pytest.mark.parametrize(
    ("dataset", "raw"),
    [
        ("counterfact", {**rows()[0], "paraphrases": ["Where?"]}),
        ("counterfact", NESTED),
        ("zsre", ZSRE),
    ],
)
def test_every_layout_holds_several_paraphrases(
    dataset: str, raw: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "data.json"

    def read(item: dict[str, Any]) -> Record:
        path.write_text(json.dumps([item]), encoding="utf-8")
        return load_records(dataset, path)[0]

    record = read(raw)
    assert len(record.rephrases) == 2
    for wanted in (["one"], ["one", "two", "three"]):
        changed = read(reworded(dataset, raw, wanted, record.locality))
        assert changed.rephrases == tuple(wanted)
        assert changed.locality == record.locality
        assert changed.prompt == record.prompt
