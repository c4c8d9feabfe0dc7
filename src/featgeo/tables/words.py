"""Strings of one length as machine words, and their codes by multiplication.

A few words cover a string. Where a multiplier sends the words of all labels to different slots of a table (perfect
hashing: Fredman, Komlós, Szemerédi, J. ACM 31(3), 1984), a code is a product, a shift and a look-up; that a string is
the label of its slot is seen by comparing their words. This takes a third to two thirds of the time of Arrow's look-up,
which is left with all other strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featgeo.tables.passes import in_parts

LONGEST = 32  # bytes
LEAST_ROWS = 2**17  # for a thread
SLOTS = 18  # at most, as a power of two
TRIES = 20  # multipliers for each number of slots
BLOCK_ROWS = 2**17  # in the cache; shorter passes make threads wait for the interpreter's lock

Codes = NDArray[np.signedinteger[Any]]
Word = NDArray[np.unsignedinteger[Any]]


def look_up(strings: Any, labels: Any) -> tuple[Codes, int]:
    """Places of Arrow's strings (an array, chunked or not) among labels, -1 where they are none; how many these are."""
    from pyarrow import compute  # type: ignore[import-untyped, unused-ignore]  # is there: the strings are its own

    codes: Codes = np.empty(len(strings), dtype=_code_type(labels))
    table, absent, end = WordTable.of(labels), 0, 0
    for chunk in getattr(strings, "chunks", [strings]):
        start, end = end, end + len(chunk)

        def job(part: slice, chunk: Any = chunk, found: Codes = codes[start:end]) -> int:
            some = chunk[part]
            if table is None or not table.look_up(some, found[part]):
                found[part] = compute.index_in(some, value_set=labels).fill_null(-1)
            return int(np.count_nonzero(found[part] < 0))

        absent += sum(in_parts(job, len(chunk), LEAST_ROWS))
    return codes, absent


@dataclass(frozen=True)
class WordTable:
    """Labels of one length by the slots that they are sent to.

    Attributes:
        length: of each label, in bytes.
        multipliers: of the words that tell the labels apart, by their places among all words of a string.
        shift: what products exceed a slot by, in bits.
        codes: of the label in each slot (slots,), -1 in an empty one.
        words: of the label in each slot [(slots,)], or () where all labels have the same.
    """

    length: int
    multipliers: dict[int, np.uint64]
    shift: np.uint64
    codes: Codes
    words: list[Word]

    @classmethod
    def of(cls, labels: Any) -> Self | None:
        """The table of an Arrow array of different labels; None where they have several lengths or are too many."""
        lengths = np.unique(np.diff(_offsets(labels)))
        if len(lengths) != 1 or not 0 < lengths[0] <= LONGEST:
            return None
        length, size = int(lengths[0]), len(labels)
        words = _words(labels, length)
        alone = [k for k, word in enumerate(words) if len(np.unique(word)) == size]
        telling = alone[:1] or range(len(words))
        rng = np.random.default_rng(0)
        for bits in range(max(1, 2 * size.bit_length() - 2), SLOTS + 1):
            for _ in range(TRIES):
                multipliers = {k: np.uint64(2 * rng.integers(2**62) + 1) for k in telling}
                shift = np.uint64(64 - bits)
                slots = _mix(words, multipliers, shift, *np.empty((2, size), dtype=np.uint64))
                if len(np.unique(slots)) < size:
                    continue
                codes: Codes = np.full(2**bits, -1, dtype=_code_type(labels))
                codes[slots] = np.arange(size)
                spread = [_spread(word, slots, 2**bits) for word in words]
                return cls(length, multipliers, shift, codes, spread)
        return None

    def look_up(self, strings: Any, codes: Codes) -> bool:
        """Write the codes of an Arrow array of strings, -1 for those that are no labels.

        Returns:
            Whether all have the labels' length and none is missing; otherwise the codes mean nothing.
        """
        offsets, rows = _offsets(strings), len(strings)
        if strings.null_count or not rows or offsets[-1] - offsets[0] != rows * self.length:
            return False
        words, size = _words(strings, self.length), min(rows, BLOCK_ROWS)
        mixed, spare = np.empty((2, size), dtype=np.uint64)
        wrong: NDArray[Any] = np.empty(size, dtype=np.bool_)
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            mixed, spare, wrong = (place[: part.stop - start] for place in (mixed, spare, wrong))
            ends, found = offsets[start : part.stop + 1], codes[part]
            lengths = np.subtract(ends[1:], ends[:-1], out=_as(spare, ends.dtype))
            if np.not_equal(lengths, self.length, out=wrong).any():
                return False
            block = [word[part] for word in words]
            slots = _mix(block, self.multipliers, self.shift, mixed, spare)
            self.codes.take(slots, out=found, mode="clip")
            for word, label in zip(block, self.words, strict=True):
                known = label
                if label.ndim:
                    known = label.take(slots, out=_as(spare, label.dtype), mode="clip")
                if np.not_equal(word, known, out=wrong).any():
                    found[wrong] = -1
        return True


def _code_type(labels: Any) -> np.dtype[Any]:
    """The shortest integers for places among labels and -1: less to write and to read again."""
    return np.min_scalar_type(-max(1, len(labels)))


def _mix(
    words: list[Word], multipliers: dict[int, np.uint64], shift: np.uint64, mixed: Word, spare: Word
) -> NDArray[np.intp]:
    """Slots (n,): the leading bits of the sum of products modulo 2^64, made in the place of `mixed`."""
    for i, (k, multiplier) in enumerate(multipliers.items()):
        np.multiply(words[k], multiplier, out=spare if i else mixed)
        if i:
            np.add(mixed, spare, out=mixed)
    return np.right_shift(mixed, shift, out=mixed).view(np.intp)


def _as(place: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """The memory of numbers for as many that are no longer."""
    return place.view(kind)[: len(place)]


def _spread(word: Word, slots: NDArray[np.intp], count: int) -> Word:
    """A word of the labels in their slots (count,), or the one that they all have ()."""
    if (word == word[0]).all():
        return np.asarray(word[0])
    spread = np.zeros(count, dtype=word.dtype)
    spread[slots] = word
    return spread


def _offsets(strings: Any) -> NDArray[np.signedinteger[Any]]:
    """Where each string begins among the bytes, and where the last one ends (n + 1,)."""
    kind = np.int64 if str(strings.type).startswith("large") else np.int32
    if not len(strings):
        return np.zeros(1, dtype=kind)
    offsets: NDArray[np.signedinteger[Any]] = np.frombuffer(strings.buffers()[1], kind)
    return offsets[strings.offset : strings.offset + len(strings) + 1]


def _words(strings: Any, length: int) -> list[Word]:
    """Strings of one length as words of 8, 4, 2 or 1 bytes from their ends, which differ most, on [(n,)]; views."""
    first, words = int(_offsets(strings)[0]), []
    while length:
        size = 2 ** (min(length, 8).bit_length() - 1)
        length -= size
        words.append((size, first + length))
    step = sum(size for size, _ in words)
    return [
        np.ndarray(len(strings), f"u{size}", strings.buffers()[2], place, (step,)) for size, place in words
    ]
