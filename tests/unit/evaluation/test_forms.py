"""Questions in conversations, and whole answers that are judged by what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from records import FAST, records, write_flat
from typer.testing import CliRunner

from errata.bench_cli import bench
from errata.demo import says
from errata.editing.chat import as_chat
from errata.editing.effects.prefix import Prefix
from errata.editing.model.causal_lm import CausalLM
from errata.engine.sampling import GREEDY
from errata.errors import InvalidRequestError
from errata.evaluation.asking import Asking
from errata.evaluation.baselines.retrieval_prompt import RetrievalPrompt, RetrievalPromptConfig
from errata.evaluation.edit.bench import run
from errata.evaluation.edit.compare import read_runs
from errata.evaluation.edit.exposure import GROUPS
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.report import markdown
from errata.evaluation.judge import ask
from errata.evaluation.metrics.whole import WholeAnswers, whole_answers, whole_shares
from errata.evaluation.report import write
from errata.evaluation.systems.lane import LaneSystem
from errata.evaluation.systems.local import LocalModel
from errata.platform.settings import WriterSettings
from tests.unit.editing.chat_models import make_chat_model
from tests.unit.editing.recipe_models import logits_behind, make_lane_model
from tests.unit.editing.tiny_models import TEXT, TextResources, make_model

BEFORE_THE_USER = "<|im_start|>system\nYou know Lyon.<|im_end|>\n<|im_start|>user\n"
ANYTHING_GOES = WriterSettings(min_reliability=0.0, min_locality=0.0)


@pytest.fixture
def chat_model() -> CausalLM:
    return make_chat_model()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A chat model, data and text as a user would provide them."""
    folder = tmp_path_factory.mktemp("forms")
    for name, model in (("chat", make_chat_model()), ("plain", make_model("llama"))):
        model.model.save_pretrained(folder / name)
        model.tokenizer.save_pretrained(folder / name)
    write_flat(folder / "data.json")
    (folder / "text.txt").write_text("\n".join(TEXT * 4), encoding="utf-8")
    return Plan(
        method="adaple",
        dataset="counterfact",
        data=folder / "data.json",
        out=folder / "out",
        model=str(folder / "chat"),
        edits=4,
        batch=2,
        values=FAST,
        text=folder / "text.txt",
        check=False,
        cache_dir=folder / "cache",
    )


def _rendered(model: CausalLM, question: str) -> list[int]:
    """The ids of a conversation, by the tokenizer's own template."""
    ids: list[int] = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    return ids


@torch.no_grad()
def _logits(model: CausalLM, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model.model(torch.tensor([ids])).logits[0]
    return logits


def test_questions_in_chat_are_read_as_the_template_writes_them(chat_model: CausalLM) -> None:
    system = LocalModel(chat_model)
    answers = ask(system, records(), Asking("chat"))
    for record, answer in zip(records(), answers, strict=True):
        ids = _rendered(chat_model, record.prompt)
        target = list(answer.new.token_ids)
        assert chat_model.tokenizer.decode(target) == record.target_new
        table = _logits(chat_model, [*ids, *target]).log_softmax(-1)
        expected = [float(table[len(ids) - 1 + n, token]) for n, token in enumerate(target)]
        assert answer.new.log_probs == pytest.approx(expected, abs=1e-4)
        assert answer.chat is None, "they are asked in one form"
    both = ask(system, records(), Asking("both"))
    texts = ask(system, records(), Asking())
    assert [replace(answer, chat=None) for answer in both] == texts
    assert [answer.chat for answer in both] == answers
    assert texts != answers


def test_a_recipe_prompt_stands_before_the_users_words(
    chat_model: CausalLM, tmp_path: Path
) -> None:
    make_lane_model(chat_model).save(tmp_path)
    values = {"claim": "threshold", "threshold": -1.0}
    text = TextResources(tmp_path, paragraphs=TEXT)
    lane = LaneSystem(chat_model, "recipe", values, text, ANYTHING_GOES, lane_model=tmp_path)
    lane.edit(records())
    question = records()[0].prompt
    (scored,) = lane.score([(as_chat(question), "Italy")])
    prefix = lane._plans([question])[0].effect(Prefix)
    assert prefix is not None
    ids = _rendered(chat_model, question)
    (after,) = (
        n for n in range(len(ids)) if chat_model.tokenizer.decode(ids[:n]) == BEFORE_THE_USER
    )
    prompt = torch.stack([prefix.embeddings, *prefix.deep.values()])
    deep = tuple(prefix.deep)

    def log_probs(place: int) -> list[float]:
        whole = (*ids, *scored.token_ids)
        table = logits_behind(chat_model, whole, prompt, place, deep).log_softmax(-1)
        start = len(prefix.embeddings) + len(ids) - 1
        return [float(table[start + n, token]) for n, token in enumerate(scored.token_ids)]

    assert scored.log_probs == pytest.approx(log_probs(after), abs=1e-4)
    assert scored.log_probs != pytest.approx(log_probs(1), abs=1e-3), "else the place is untested"
    (made,) = lane.generate([as_chat(question)], 3, [GREEDY])
    assert made != LocalModel(chat_model).generate([as_chat(question)], 3, [GREEDY])[0]


def test_an_answer_in_chat_is_greedy_and_ends_with_the_turn(chat_model: CausalLM) -> None:
    question = "Where is the tower of Pisa?"
    ids = _rendered(chat_model, question)
    asked = len(ids)
    for _ in range(6):
        ids.append(int(_logits(chat_model, ids)[-1].argmax()))
    new = ids[asked:]
    decode = chat_model.tokenizer.decode
    system = LocalModel(chat_model)
    assert system.generate([as_chat(question)], 6, [GREEDY]) == [
        decode(new, skip_special_tokens=True)
    ]
    last = next(n for n in range(1, 6) if new[n] not in new[:n])
    chat_model.end_ids = (new[last],)
    assert system.generate([as_chat(question)], 6, [GREEDY]) == [
        decode(new[:last], skip_special_tokens=True)
    ]


def test_a_retrieved_statement_becomes_a_part_of_what_the_user_says(chat_model: CausalLM) -> None:
    system = RetrievalPrompt(chat_model, RetrievalPromptConfig())
    system.edit(records()[:1])
    (found,) = system.score([(as_chat("Lyon is in"), "Italy")])
    stated = as_chat("Lyon is in Italy. Lyon is in")
    assert [found] == LocalModel(chat_model).score([(stated, "Italy")])


@pytest.mark.parametrize(
    ("answer", "wanted", "others", "expected"),
    [
        ("It is Rome.", "Rome", ("Paris",), True),
        ("In ROME, not Paris", "Rome", ("Paris",), True),
        ("Paris, or Rome", "Rome", ("Paris",), False),
        ("The Romeo of Paris", "Rome", ("Paris",), False),
        ("He", "He", ("H",), True),
        ("he is", "He", ("H",), False),
        ("in New York City", "New York", ("New York City",), False),
        ("in New York City", "New York City", ("New York",), True),
        ("Rome", "Rome", (), True),
        ("", "Rome", (), False),
    ],
)
def test_an_answer_says_what_it_names_first(
    answer: str, wanted: str, others: tuple[str, ...], expected: bool
) -> None:
    assert says(answer, wanted, *others) is expected


def test_whole_answers_are_judged_by_what_they_say() -> None:
    record = replace(
        records()[0],
        target_new="Italy",
        target_true="France",
        rephrases=("one", "two", "three"),
        locality=(("a", "Beirut"), ("b", "Oslo"), ("c", "Rome")),
    )
    before = WholeAnswers("in France", ("France",) * 3, ("Beirut", "It is Oslo.", "I do not know."))
    now = WholeAnswers(
        "in Italy, once France",
        ("Italy", "France, not Italy", "Spain"),
        ("Beirut", "Italy", "Rome"),
    )
    assert dict(whole_shares(record, before, now)) == {
        "generation.reliability": 1.0,
        "generation.generality": pytest.approx(1 / 3),
        "generation.known": pytest.approx(2 / 3),
        "generation.locality": 0.5,
        "generation.repeated": 0.0,
    }
    silent = replace(before, locality=("?", "?", "?"))
    found = dict(whole_shares(record, silent, now))
    assert found["generation.known"] == 0.0
    assert "generation.locality" not in found, "nothing was known that could be lost"
    assert dict(whole_shares(record, before, before))["generation.reliability"] == 0.0
    assert "generation.repeated" not in dict(whole_shares(record, before, before))
    running_on = WholeAnswers(
        "Italy Italy Italy", ("Italy. Italy", "Italy is Italy\nItaly", "Spain"), ()
    )
    assert dict(whole_shares(record, before, running_on))["generation.repeated"] == (
        pytest.approx(2 / 3)
    )


def test_a_text_is_judged_by_its_first_line(chat_model: CausalLM) -> None:
    system = LocalModel(chat_model)
    asked = records()
    texts = [text for r in asked for text in (r.prompt, *r.rephrases, r.locality[0][0])]
    distinct = list(dict.fromkeys(texts))
    for form in ("text", "chat"):
        prompts = [text if form == "text" else as_chat(text) for text in distinct]
        made = system.generate(prompts, 24, [GREEDY] * len(prompts))
        if form == "text":
            made = [text.strip().split("\n")[0] for text in made]
        said = dict(zip(distinct, made, strict=True))
        for record, answers in zip(asked, whole_answers(system, asked, form), strict=True):
            assert answers.prompt == said[record.prompt]
            assert answers.rephrases == (said[record.rephrases[0]],)
            assert answers.locality == (said[record.locality[0][0]],)


def test_both_forms_are_measured_on_the_same_edits(plan: Plan) -> None:
    found = {form: run(replace(plan, asking=Asking(form, 3))) for form in ("text", "chat", "both")}
    both = found["both"]
    for stage in ("pre", "immediate", "final", "ci95"):
        first_form = {*GROUPS, "undisputed"}
        chat = {k: v for k, v in found["chat"][stage].items() if k not in first_form}
        assert both[stage].pop("chat") == chat, "figures of groups are of the first form"
        assert both[stage] == found["text"][stage]
    assert found["text"]["final"] != found["chat"]["final"]
    for form in ("text", "chat"):
        for stage in ("pre", "final"):
            assert {"reliability", "generality", "known"} <= set(found[form][stage]["generation"])
        assert "generation" not in found[form]["immediate"], "generation takes time"
        assert "generation" in found[form]["ci95"]
        assert (found[form]["form"], found[form]["num_generated"]) == (form, 3)


def test_the_report_shows_each_form_in_tables_of_its_own(plan: Plan) -> None:
    found = run(replace(plan, asking=Asking("both", 2)))
    report = markdown(found, [])
    assert "asked as texts and in conversations" in report
    for title in ("Teacher-forced accuracy", "Whole answers, generated", "MEMIT's figures"):
        assert f"### {title}\n" in report
        assert f"### {title}, asked in conversations\n" in report
    plain = markdown(run(plan), [])
    assert "conversations" not in plain
    assert "Whole answers" not in plain


def test_forms_are_not_compared_with_each_other(plan: Plan, tmp_path: Path) -> None:
    plan = replace(plan, method="none", values={}, edits=2)
    for form in ("text", "chat"):
        write(run(replace(plan, asking=Asking(form))), tmp_path / form)
    with pytest.raises(InvalidRequestError, match="different forms of questions"):
        read_runs([tmp_path / "text", tmp_path / "chat"])


@pytest.mark.parametrize("form", ["chat", "both"])
def test_conversations_need_a_chat_template(plan: Plan, form: str) -> None:
    plain = str(Path(plan.model).with_name("plain"))
    with pytest.raises(InvalidRequestError, match=f"no chat template, which --form {form}"):
        run(replace(plan, model=plain, asking=Asking(form)))


def test_the_command_takes_form_and_number_of_answers(plan: Plan, tmp_path: Path) -> None:
    arguments = [
        "edit", "--method", "none", "--data", str(plan.data), "--model", plan.model,
        "--edits", "2", "--out", str(tmp_path), "--generate", "1",
    ]  # fmt: skip
    done = CliRunner().invoke(bench, [*arguments, "--form", "chat"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Rel. said" in (tmp_path / "report.md").read_text(encoding="utf-8")
    failed: Any = CliRunner().invoke(bench, [*arguments, "--form", "poem"])
    assert isinstance(failed.exception, InvalidRequestError)
    assert "text, chat, both" in str(failed.exception)
