"""Strings as machine words have the codes that dictionaries give, whatever their bytes and how they are stored."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featgeo.tables import words
from featgeo.tables.words import WordTable, look_up

KINDS = (pa.string(), pa.large_string())


def by_dictionary(strings, labels):
    places = {label: i for i, label in enumerate(labels)}
    return [places.get(string, -1) for string in strings]


def agree(strings, labels, values):
    codes, absent = look_up(values, pa.array(labels, values.type))
    expected = by_dictionary(strings, labels)
    assert codes.tolist() == expected
    assert absent == expected.count(-1)


@settings(max_examples=150, deadline=None)
@given(
    labels=st.lists(st.text(max_size=12), unique=True, max_size=12),
    others=st.lists(st.text(max_size=12) | st.none(), max_size=3),
    seed=st.integers(0, 99),
    cuts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    kind=st.sampled_from(KINDS),
)
def test_strings_of_any_lengths(labels, others, seed, cuts, kind):
    pool = [*labels, *others] or [None]
    strings = [pool[i] for i in np.random.default_rng(seed).integers(0, len(pool), 40)]
    agree(strings, labels, pa.array(strings, kind))
    start, stop = cuts[0], 40 - cuts[1]
    agree(strings[start:stop], labels, pa.array(strings, kind)[start:stop])
    chunks = [pa.array(strings[:start], kind), pa.array(["", *strings[start:]], kind)[1:]]
    agree(strings, labels, pa.chunked_array(chunks))


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 40),
    alphabet=st.sampled_from(["01", "\0\1", "abcdefgh", "xy", "äöü", "日本語文"]),
    known=st.integers(1, 30),
    seed=st.integers(0, 99),
    kind=st.sampled_from(KINDS),
)
def test_strings_of_one_length_and_neighbours_of_labels(length, alphabet, known, seed, kind):
    rng = np.random.default_rng(seed)
    prefix, free = "p" * max(0, length - 6), min(length, 6)
    strings = [prefix + "".join(alphabet[i] for i in rng.integers(0, len(alphabet), free)) for _ in range(60)]
    labels = list(dict.fromkeys(strings[:known]))  # the others may differ from a label in one byte
    agree(strings, labels, pa.array(strings, kind))
    agree(strings[7:50], labels, pa.array(strings, kind)[7:50])
    table = WordTable.of(pa.array(labels, kind))
    size = len(strings[0].encode())
    assert (table is not None) == (size <= words.LONGEST)
    if table is not None:
        found = np.empty(60, dtype=table.codes.dtype)
        assert table.look_up(pa.array(strings, kind), found)
        assert found.tolist() == by_dictionary(strings, labels)


def test_labels_that_no_single_word_tells_apart():
    labels = [a * 8 + b * 8 + c * 8 for a in "xy" for b in "xy" for c in "xy"]
    assert len(WordTable.of(pa.array(labels)).multipliers) == 3
    strings = [labels[i] for i in np.random.default_rng(0).integers(0, 8, 100)] + ["z" * 24, "x" * 23 + "z"]
    agree(strings, labels, pa.array(strings))


@pytest.mark.parametrize("count", [1, 2, 300, 900, 4_000])
def test_many_labels_have_slots_of_their_own_or_no_table(count):
    labels = [f"{i * i:010d}" for i in range(count)]
    assert (WordTable.of(pa.array(labels)) is None) == (count == 4_000)
    strings = [f"{i * i:010d}" for i in np.random.default_rng(0).integers(0, count + 9, 5_000)]
    agree(strings, labels, pa.array(strings))


def test_parts_are_looked_up_as_they_are(monkeypatch):
    monkeypatch.setattr(words, "LEAST_ROWS", 50)
    monkeypatch.setattr(words, "BLOCK_ROWS", 30)
    labels = ["ab", "cd", "ef"]
    same = [labels[i] for i in np.random.default_rng(0).integers(0, 3, 200)]
    for place, other in ((3, None), (199, None), (120, "abc"), (0, ""), (77, "zz")):
        strings = [*same[:place], other, *same[place + 1 :]]
        agree(strings, labels, pa.array(strings))
        agree(strings, labels, pa.chunked_array([strings[:90], strings[90:]]))
