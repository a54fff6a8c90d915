"""Metrics on cases with known answers; each case would expose a plausible wrong definition."""

from __future__ import annotations

import math

import pytest

from errata.errors import InvalidRequestError
from errata.evaluation.data.general import GeneralQuestion
from errata.evaluation.metrics import memit, texts, tokens
from errata.evaluation.metrics.ability import question_pairs, share_right
from errata.evaluation.metrics.likelihood import perplexity, text_pairs
from errata.evaluation.systems import Scored


def _scored(ids: tuple[int, ...], own: tuple[int, ...], *log_probs: float) -> Scored:
    return Scored(ids, own, log_probs or (0.0,) * len(ids))


def _likely(*log_probs: float) -> Scored:
    return _scored((0,) * len(log_probs), (0,) * len(log_probs), *log_probs)


def test_token_accuracy_is_a_share_where_exact_match_is_all_or_nothing() -> None:
    answer = _scored((1, 2, 3, 4), (1, 9, 3, 4))
    assert tokens.token_accuracy(answer) == 0.75  # not 1 (the first token), not 0 (all of them)
    assert tokens.exact_match(answer) == 0.0
    assert tokens.exact_match(_scored((1, 2), (1, 2))) == 1.0


def test_locality_is_agreement_with_earlier_answers_not_accuracy() -> None:
    wrong_before = _scored((1, 2), (8, 9))
    assert tokens.token_agreement(wrong_before, _scored((1, 2), (8, 9))) == 1.0  # accuracy: 0
    corrected = _scored((1, 2), (1, 9))
    assert tokens.token_agreement(wrong_before, corrected) == 0.5
    assert tokens.exact_agreement(wrong_before, corrected) == 0.0
    assert tokens.exact_agreement(wrong_before, wrong_before) == 1.0


def test_preference_is_by_token_and_not_by_the_sum() -> None:
    long, short = _likely(-1.0, -1.0, -1.0), _likely(-2.0)
    assert memit.prefers(long, short) == 1.0  # by the sum, −3 against −2, it would lose
    assert memit.prefers(short, long) == 0.0
    assert memit.prefers(short, short) == 0.0


def test_preference_does_not_require_the_argmax() -> None:
    unlikely = _scored((1,), (7,), -4.0)
    assert memit.prefers(unlikely, _scored((2,), (7,), -5.0)) == 1.0
    assert tokens.token_accuracy(unlikely) == 0.0


def test_score_is_the_harmonic_mean() -> None:
    # AdaPLE's published figures for 1,000 edits; the arithmetic mean would be 0.922
    assert memit.harmonic_mean([0.978, 0.964, 0.823]) == pytest.approx(0.916, abs=5e-4)
    assert memit.harmonic_mean([1.0, 0.0, 1.0]) == 0.0


def test_perplexity_is_over_all_tokens() -> None:
    found = perplexity([_likely(-1.0, -1.0, -1.0), _likely(-5.0)])
    assert found == pytest.approx(math.exp(2.0))
    mean_of_texts = math.exp((1.0 + 5.0) / 2)
    mean_of_perplexities = (math.exp(1.0) + math.exp(5.0)) / 2
    assert found < mean_of_texts < mean_of_perplexities
    with pytest.raises(InvalidRequestError, match="needs a text"):
        perplexity([])


def test_a_text_is_scored_from_its_second_word_on() -> None:
    assert text_pairs(["one two three", "alone", "a  b"]) == [("one", "two three"), ("a", "b")]
    ((_, rest),) = text_pairs([" ".join(map(str, range(500)))])
    assert len(rest.split()) == 199


def test_entropy_is_in_bits_over_n_grams() -> None:
    assert texts.ngram_entropy("a b c d e", 2) == pytest.approx(2.0)  # four bigrams; nats: 1.39
    assert texts.ngram_entropy("a b a b a", 2) == pytest.approx(1.0)
    assert texts.ngram_entropy("a b a b a", 3) == pytest.approx(
        -(2 / 3) * math.log2(2 / 3) + math.log2(3) / 3
    )
    assert texts.ngram_entropy("a", 2) == 0.0


def test_fluency_weighs_trigrams_twice_as_much_as_bigrams() -> None:
    text = "a b c d e f a b"
    two, three = texts.ngram_entropy(text, 2), texts.ngram_entropy(text, 3)
    assert two != three
    assert texts.fluency(text) == pytest.approx(100 * (two / 3 + 2 * three / 3))
    assert texts.fluency("go go go go go go") == 0.0


def test_consistency_is_a_cosine_of_tf_idf_vectors() -> None:
    found = texts.Consistency(
        {"Oslo": ["Oslo lies on the fjord.", "The fjord is deep."], "Rome": ["Rome is the city."]}
    )
    same = found("Oslo lies on the fjord. The fjord is deep.", "Oslo")
    assert same == pytest.approx(100.0)
    on_topic, off_topic = found("the deep fjord", "Oslo"), found("the deep fjord", "Rome")
    assert on_topic is not None
    assert off_topic is not None
    assert on_topic > 50 > off_topic > 0  # "the" is everywhere and weighs little
    assert found("the fjord", "Paris") is None


def test_choices_are_compared_by_token_and_open_answers_by_exact_match() -> None:
    questions = [
        GeneralQuestion("x", ("long", "short"), "long"),
        GeneralQuestion("y", (), "open"),
        GeneralQuestion("z", ("a", "b"), "b"),
    ]
    assert question_pairs(questions) == [
        ("x", "long"),
        ("x", "short"),
        ("y", "open"),
        ("z", "a"),
        ("z", "b"),
    ]
    scored = [
        _likely(-1.0, -1.0, -1.0),
        _likely(-2.0),  # right by token, wrong by the sum
        _scored((1, 2), (1, 9)),  # half right is wrong
        _likely(-1.0),
        _likely(-1.0),  # a tie goes to the first
    ]
    assert share_right(questions, scored) == pytest.approx(1 / 3)
