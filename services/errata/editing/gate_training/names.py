"""Names of subjects and answers: those of the training records, and invented ones of every kind."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping

_KNOWN = 0.5  # share of names from records, for kinds that they have
_SYLLABLES = (
    "al an ar bel ber bo bran cal cor da del dor el en er fa fel gal gor ha hal in is ka kel kor "
    "la len lor ma mar mel mi mor na nel no or pa per ra ren ri ro sa sel sol ta tel tor ul va vel"
).split()
_ENDINGS = "ia us a um is ensis ella ina oides aria".split()
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_TITLES = "The A My Last First New Old Red Black White Lost Secret Little Great".split()
_NOUNS = (
    "House River Night Star Garden Heart Road King Winter Song Mirror Bridge Storm City Letter "
    "Fire Ocean Child Shadow Game Wolf Train Island Dream Machine"
).split()
_NUMBER = re.compile(r"\d")


class Names:
    """Draws names by kind, and near-identical ones."""

    def __init__(self, known: Mapping[str, Iterable[str]]) -> None:
        """Takes the names that records have.

        Args:
            known: by kind, such as `person`, `place`, `organisation`.
        """
        self._known = {kind: sorted(set(names)) for kind, names in known.items()}
        self._words = sorted(
            {
                word
                for names in self._known.values()
                for name in names
                for word in name.split()
                if word[:1].isupper() and word.isalpha()
            }
        ) or [syllable.title() for syllable in _SYLLABLES]
        self._make: Mapping[str, Callable[[random.Random], str]] = {
            "person": self._person,
            "place": lambda rng: self._with(rng, ("", "", " Park", " Creek", "ville", " County")),
            "org": lambda rng: self._with(rng, (" Inc.", " Group", " Records", " Society", "")),
            "work": _title,
            "series": _title,
            "team": lambda rng: self._with(rng, (" FC", " United", " Rovers", " Tigers")),
            "structure": lambda rng: self._with(
                rng, (" Bridge", " House", " Church", " Station", " Hall", " Castle")
            ),
            "river": lambda rng: self._with(rng, (" River", " Creek", " Brook")),
            "event": self._event,
            "ship": self._ship,
            "product": self._product,
            "star": self._star,
            "gene": _gene,
            "taxon": _taxon,
            "character": lambda rng: f"{self._word(rng)} {self._word(rng)}",
            "date": _date,
            "number": lambda rng: str(rng.randint(2, 4000)),
        }

    def draw(self, kind: str, rng: random.Random) -> str:
        """A name of a kind; of an unknown kind, one or two words."""
        known = self._known.get(kind, [])
        if known and (kind not in self._make or rng.random() < _KNOWN):
            return rng.choice(known)
        make = self._make.get(kind)
        return make(rng) if make else " ".join(self._word(rng) for _ in range(rng.choice((1, 2))))

    def near(self, name: str, rng: random.Random) -> str:
        """Another name that differs in one word, or in one digit."""
        digits = [match.start() for match in _NUMBER.finditer(name)]
        if digits and rng.random() < 0.8:
            place = rng.choice(digits)
            other = rng.choice([d for d in "0123456789" if d != name[place]])
            return name[:place] + other + name[place + 1 :]
        words = name.split()
        place = rng.randrange(len(words))
        words[place] = rng.choice([word for word in self._words if word != words[place]])
        return " ".join(words)

    def _word(self, rng: random.Random) -> str:
        return rng.choice(self._words) if rng.random() < 0.7 else _invented(rng)

    def _person(self, rng: random.Random) -> str:
        words = [self._word(rng) for _ in range(rng.choice((2, 2, 3)))]
        return " ".join(words)

    def _with(self, rng: random.Random, endings: tuple[str, ...]) -> str:
        words = " ".join(self._word(rng) for _ in range(rng.choice((1, 1, 2))))
        return words + rng.choice(endings)

    def _event(self, rng: random.Random) -> str:
        if rng.random() < 0.5:
            return f"Battle of {self._word(rng)}"
        return f"{rng.randint(1880, 2020)} {self._word(rng)} {rng.choice(('Open', 'Cup', 'Games'))}"

    def _ship(self, rng: random.Random) -> str:
        name = f"{rng.choice(('USS', 'HMS', 'SS', 'HMAS'))} {self._word(rng)}"
        return f"{name} (DD-{rng.randint(10, 999)})" if rng.random() < 0.4 else name

    def _product(self, rng: random.Random) -> str:
        letters = "".join(rng.choice("ABCDEFGKLMNPRSTVXZ") for _ in range(rng.choice((1, 2))))
        return f"{self._word(rng)} {letters}{rng.choice(('-', ' ', ''))}{rng.randint(1, 900)}"

    def _star(self, rng: random.Random) -> str:
        if rng.random() < 0.6:
            catalogue = rng.choice(("HD", "NGC", "HIP", "Gliese", "IC", "Kepler"))
            return f"{catalogue} {rng.randint(10, 220_000)}"
        return f"{rng.randint(100, 9_999)} {self._word(rng)}"


def _invented(rng: random.Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 2, 3)))).title()


def _taxon(rng: random.Random) -> str:
    genus = "".join(rng.choice(_SYLLABLES) for _ in range(2)).title() + rng.choice(_ENDINGS)
    if rng.random() < 0.5:
        return genus
    return f"{genus} {rng.choice(_SYLLABLES)}{rng.choice(_SYLLABLES)}{rng.choice(_ENDINGS)}"


def _gene(rng: random.Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRST") for _ in range(rng.choice((3, 4))))
    return f"{letters}{rng.randint(1, 30)}"


def _title(rng: random.Random) -> str:
    words = [rng.choice(_TITLES), rng.choice(_NOUNS)]
    if rng.random() < 0.5:
        words += [rng.choice(("of", "and", "in")), "the", rng.choice(_NOUNS)]
    if rng.random() < 0.4:
        words[0] = _invented(rng)
    return " ".join(words)


def _date(rng: random.Random) -> str:
    year = rng.randint(1500, 2020)
    if rng.random() < 0.5:
        return str(year)
    return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {year}"
