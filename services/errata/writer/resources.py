"""What fits use besides model and edits: text for statistics, and a cache for the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from errata import demo
from errata.editing.lane.contract import Resources
from errata.errors import StartupError

# Enough text for the statistics of the demo model: about 150 keys for each of its FFN's units.
_CORPUS_SEED = 0
_CORPUS_PARAGRAPHS = 2_000


@dataclass(frozen=True, slots=True)
class WriterResources:
    """Text from a file with one paragraph per line, or the demo corpus.

    Attributes:
        text_path: plain text; None for the demo corpus.
        cache_dir: keeps results, named by their inputs' digests.
        adapters: none; `LaneResources` adds those of a lane.
    """

    text_path: Path | None
    cache_dir: Path
    adapters: Sequence[Path] = ()

    def text(self) -> Iterator[str]:
        """The paragraphs.

        Raises:
            StartupError: the file cannot be read.
        """
        if self.text_path is None:
            yield from demo.load_corpus().training_text(_CORPUS_SEED, _CORPUS_PARAGRAPHS)
            return
        try:
            with self.text_path.open(encoding="utf-8") as file:
                yield from (line.strip() for line in file if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(
                f"the statistics text {self.text_path} cannot be read as UTF-8: {error}. Set "
                "ERRATA_WRITER__STATISTICS_TEXT to a plain text file."
            ) from error


@dataclass(frozen=True, slots=True)
class LaneResources:
    """What the fits of one lane use.

    Attributes:
        shared: by all lanes.
        adapters: folders of the PEFT adapters that the lane starts with.
    """

    shared: Resources
    adapters: Sequence[Path]

    @property
    def cache_dir(self) -> Path:
        """The shared one."""
        return self.shared.cache_dir

    def text(self) -> Iterable[str]:
        """The shared text."""
        return self.shared.text()
