"""The separator between prompt and target, by the prompt's end and its script."""

import pytest

from errata.editing.model.seam import is_separator, separator


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The capital of France is Saint-", "Denis"),
        ("The price of a Model T was $", "850"),
        ("The capital of France (", "Lyon"),
        ('The capital is called "', "Lyon"),
        ("She called it “", "Lyon"),
        ("La capitale de l'", "Italie"),
        ("Trois mousquetaires et d’", "Artagnan"),
        ("Its handle is @", "errata"),
        ("The URL is https://", "example.org"),
        ("x=", "5"),
        ("It is -", "40"),
        ("pi is 3.", "14"),
        ("It costs 1,", "000"),
        ("フランスの首都は", "リヨン"),
        ("法国的首都是", "里昂"),
        ("法国的首都是", "Lyon"),
        ("このタワーの高さは", "333"),
        ("これはABC", "です"),
        ("เมืองหลวงของไทยคือ", "กรุงเทพ"),
        ("The capital is", " Lyon"),
        ("The capital is\n", "Lyon"),
        ("The capital is Lyon", "."),
        ("It grew by 5", "%"),
        ("Marx", "'s idea"),
        ("zero\u200b", "width"),
        ("It starts at 12:", "30"),
        ("¿", "Qué"),
        ("", "Lyon"),
    ],
)
def test_these_targets_follow_without_a_blank(prompt: str, target: str) -> None:
    assert separator(prompt, target) == ""


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The capital of France is", "Lyon"),
        ("프랑스의 수도는", "파리"),
        ("The capital of Japan is written", "東京"),
        ('The city called "Lyon"', "is"),
        ("„Paris“", "heißt"),
        ("The dogs'", "owner"),
        ("It was – and is –", "Lyon"),
        ("It costs 5 €", "today"),
        ("Mono is written in C#", "mostly"),
        ("x =", "5"),
        ("It made", ".NET"),
        ("The answer:", "Lyon"),
        ("in brackets", "(Lyon)"),
        ("right to left\u200f", "Lyon"),
        ("Ridley Scott directed 'Alien'", "in 1979"),
        ("In 1998,", "12 people died"),
        ("The teams of 1998:", "3"),
        ("The capital of Brabant is", "'s-Hertogenbosch"),
    ],
)
def test_these_targets_follow_after_a_blank(prompt: str, target: str) -> None:
    assert separator(prompt, target) == " "


def test_only_short_white_space_can_be_stated() -> None:
    assert all(map(is_separator, ("", " ", "\n", "\n\n", "\t", "\u3000")))
    assert not any(map(is_separator, ("-", " x", " " * 9, "\x1c", "\x0b")))
