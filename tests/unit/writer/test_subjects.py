import pytest

from errata.writer.subjects import longest_name


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Steve Jobs's wife is", "Steve Jobs"),
        ("Steve Jobs’s wife is", "Steve Jobs"),
        ("James' home is", "James"),
        ("France's capital city is", "France"),
        ("The iPhone 4 was made by", "iPhone 4"),
        ("macOS was made by", "macOS"),
        ("The headquarters of 3M are in", "3M"),
        ("The O'Hare airport is in", "O'Hare"),
        ("AT&T was founded in", "AT&T"),
        ("Jean-Luc Picard commands", "Jean-Luc Picard"),
        ("The author of The Lord of the Rings is", "Lord of the Rings"),
        ("Ludwig van Beethoven was born in", "Ludwig van Beethoven"),
        ("Dr. No lives in", "Dr. No"),
        ("It was Tokyo. Kyoto is", "Tokyo"),
        ("What's the capital of Peru?", "Peru"),
        ("ÇA VA is by", "ÇA VA"),
        ("10,000 Maniacs recorded", "10,000 Maniacs"),
        ("9/11 was in", "9/11"),
        ("AC/DC is from", "AC/DC"),
        ("C++ was made by", "C++"),
        ("The U.S. is in", "U.S."),
        ("Guns N' Roses is from", "Guns N' Roses"),
        ("Q: What's the capital of Peru? A:", "Peru"),
        ("Because Anna said", "Anna"),
        ("it is what it is", ""),
        ("The dogs' owner", ""),
        ("", ""),
    ],
)
def test_a_name_ends_at_possessives_and_sentences_and_begins_at_a_word(
    prompt: str, subject: str
) -> None:
    assert longest_name(prompt) == subject
    assert subject in prompt
