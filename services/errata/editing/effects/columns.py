"""Parts that the tables of several effects share."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Numbering(Generic[T]):
    """Numbers for objects that several rows share; a number is free again after its last row."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # id → number
        self._items: dict[int, T] = {}
        self._uses: dict[int, int] = {}

    def __getitem__(self, number: int) -> T:
        """The object that has this number."""
        return self._items[number]

    def take(self, item: T) -> int:
        """The object's number, for one more row."""
        number = self._numbers.get(id(item))
        if number is None:
            number = next(n for n in range(len(self._items) + 1) if n not in self._items)
            self._numbers[id(item)], self._items[number], self._uses[number] = number, item, 0
        self._uses[number] += 1
        return number

    def give_back(self, number: int) -> None:
        """Ends one row's use of a number."""
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._uses[number], self._numbers[id(self._items.pop(number))]


def widened(column: Tensor, width: int, fill: float = 0.0) -> Tensor:
    """The column, (rows, w, …), with room for at least `width` entries a row."""
    if width <= column.shape[1]:
        return column
    wider = column.new_full((len(column), width, *column.shape[2:]), fill)
    wider[:, : column.shape[1]] = column
    return wider
