"""Raw columns, chunks and streams give the table that pandas.crosstab gives."""

import numpy as np
import pandas as pd
import pytest
import torch

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.tables import streams, words
from featgeo.tables.codes import HEAD, MISSING_LABEL, factor
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.passes import in_parts
from featgeo.tables.streams import PairCounts
from tests.tables.oracles import SMOKING


def columns(size=4_000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 9, size)
    return x, (x // 2 + rng.integers(0, 4, size)) % 6


KINDS = {
    "integers": lambda v: v,
    "floats": lambda v: v / 2,
    "strings": lambda v: np.array([f"c{i}" for i in v]),
    "objects": lambda v: np.array([f"c{i}" for i in v], dtype=object),
    "series": lambda v: pd.Series([f"c{i}" for i in v]),
    "categorical": lambda v: pd.Series(v).astype("category"),
    "nullable": lambda v: pd.Series(v, dtype="Int64"),
    "booleans": lambda v: v > 2,
    "list": lambda v: v.tolist(),
    "dates": lambda v: pd.Timestamp("2020-01-01") + pd.to_timedelta(v, unit="D"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_every_kind_are_counted_as_crosstab_does(kind):
    x, y = (KINDS[kind](column) for column in columns())
    expected = pd.crosstab(pd.Series(x), pd.Series(y))
    fit = ModalDecomposition(n_components=1).fit_columns(x, y)
    np.testing.assert_array_equal(fit.table_.counts, expected)
    assert list(fit.row_labels_) == list(expected.index)
    assert list(fit.column_labels_) == list(expected.columns)


def test_fit_columns_equals_fit_of_the_crosstab():
    x, y = columns()
    by_columns = ModalDecomposition().fit_columns(x, y)
    by_table = ModalDecomposition().fit(pd.crosstab(x, y))
    np.testing.assert_allclose(by_columns.correlations_, by_table.correlations_, atol=1e-14)
    np.testing.assert_allclose(by_columns.row_functions_, by_table.row_functions_, atol=1e-10)
    assert by_columns.n_features_in_ == by_table.n_features_in_ == 6


def test_long_columns_of_few_integers_are_counted_in_blocks():
    x, y = columns(size=300_000)
    x[200_000:] += 3
    weight = np.arange(len(x)) % 3.0
    fit = ModalDecomposition(n_components=1).fit_columns(pd.Series(x - 2), y.astype(np.int8), weight)
    expected = pd.crosstab(x - 2, y, weight, aggfunc="sum").fillna(0)
    np.testing.assert_array_equal(fit.table_.counts, expected)
    assert list(fit.row_labels_) == list(expected.index)


@pytest.mark.parametrize("far", [0, 2**40, -(2**35) - 7])
def test_threads_share_the_rows_of_long_columns(monkeypatch, far):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(streams, "BLOCK_ROWS", 2**14)
    monkeypatch.setattr(words, "LEAST_ROWS", 2**14)
    x, y = columns(size=200_000)
    for some in (slice(None), slice(0, 5 * 2**14 + 1)):
        expected = pd.crosstab(x[some] + far, y[some] - far)
        fit = ModalDecomposition(n_components=1).fit_columns(x[some] + far, y[some] - far)
        np.testing.assert_array_equal(fit.table_.counts, expected)
        assert list(fit.row_labels_) == list(expected.index)
    names = pd.Series(x).map("c{}".format).astype("str"), pd.Series(y).map("{0}{0}".format).astype("str")
    fit = ModalDecomposition(n_components=1).fit_columns(*names)
    np.testing.assert_array_equal(fit.table_.counts, pd.crosstab(*names))


def test_errors_of_a_part_are_errors_of_the_whole(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert in_parts(lambda part: (part.start, part.stop), 10, 3) == [(0, 3), (3, 6), (6, 10)]
    assert in_parts(lambda part: (part.start, part.stop), 0, 3) == [(0, 0)]
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda part: 1 / (part.stop - 12), 12, 3)


def test_sample_weights_are_counts():
    rows, cols = np.nonzero(SMOKING + 1)
    fit = ModalDecomposition().fit_columns(rows, cols, sample_weight=SMOKING.ravel())
    np.testing.assert_allclose(fit.correlations_, ModalDecomposition().fit(SMOKING).correlations_, atol=1e-14)


@pytest.mark.parametrize("cells", [2**24, 10], ids=["dense", "sparse"])
def test_any_chunks_give_the_same_table(cells, monkeypatch):
    monkeypatch.setattr(streams, "DENSE_CELLS", cells)
    x, y = columns()
    x = np.array([f"c{i}" for i in x])
    x[3900:] = "late"
    whole, parts, alone = PairCounts(), PairCounts(), ModalDecomposition()
    whole.add(x, y)
    for start in range(0, len(x), 700):
        parts.add(x[start : start + 700], y[start : start + 700])
        alone.partial_fit(x[start : start + 700], y[start : start + 700])
    for count in (whole, parts):
        counts, rows, cols = count.table()
        expected = pd.crosstab(x, y)
        np.testing.assert_array_equal(counts if cells > 10 else counts.toarray(), expected)
        assert list(rows) == list(expected.index)
        assert list(cols) == list(expected.columns)
    stream = ModalDecomposition().fit_stream((x[i::5], y[i::5]) for i in range(5))
    np.testing.assert_allclose(stream.correlations_, alone.correlations_, atol=1e-14)
    np.testing.assert_allclose(stream.row_functions_, alone.row_functions_, atol=1e-10)


def test_merging_sparse_chunks_keeps_the_memory_of_the_distinct_pairs(monkeypatch):
    monkeypatch.setattr(streams, "DENSE_CELLS", 1)
    rng, counter = np.random.default_rng(0), PairCounts()
    total = np.zeros((50, 50))
    for _ in range(30):
        x, y = rng.integers(0, 50, (2, 200_000))
        total += np.bincount(x * 50 + y, minlength=2500).reshape(50, 50)
        counter.add(x, y, np.ones(len(x)))
    assert sum(len(keys) for keys in counter._keys) <= 2**22 + 250_000
    np.testing.assert_array_equal(counter.table()[0].toarray(), total)


def test_tables_can_be_added_but_not_mixed_with_columns():
    half = np.floor(SMOKING / 2)
    fit = ModalDecomposition().partial_fit(half).partial_fit(SMOKING - half)
    np.testing.assert_allclose(fit.correlations_, ModalDecomposition().fit(SMOKING).correlations_, atol=1e-14)
    with pytest.raises(FeatgeoError, match="columns after a table"):
        fit.partial_fit([0, 1], [0, 1])
    with pytest.raises(FeatgeoError, match="5 fitted rows"):
        fit.partial_fit(SMOKING[:2])
    streamed = ModalDecomposition().partial_fit([0, 0, 1], [0, 1, 1])
    with pytest.raises(FeatgeoError, match="a table after columns"):
        streamed.partial_fit(SMOKING)
    with pytest.raises(FeatgeoError, match="both columns"):
        ModalDecomposition().partial_fit([0, 0, 1])


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_values(nothing):
    x = pd.Series(["a", "b", nothing, "a", "b", "a"], dtype=object)
    y = pd.Series(["u", "v", "u", nothing, "v", "v"], dtype=object)
    dropped = ModalDecomposition().fit_columns(x, y)
    np.testing.assert_array_equal(dropped.table_.counts, [[1, 1], [0, 2]])
    kept = ModalDecomposition(missing="category").fit_columns(x, y)
    expected = pd.crosstab(x.fillna(MISSING_LABEL), y.fillna(MISSING_LABEL))
    expected = expected.loc[["a", "b", MISSING_LABEL], ["u", "v", MISSING_LABEL]]
    np.testing.assert_array_equal(kept.table_.counts, expected)
    assert list(kept.row_labels_) == ["a", "b", MISSING_LABEL]
    np.testing.assert_array_equal(kept.transform_labels([nothing])[0], kept.row_coordinates_[2])
    with pytest.raises(FeatgeoError, match="1 missing values"):
        ModalDecomposition(missing="error").fit_columns(x, y)
    with pytest.raises(FeatgeoError, match="Rename"):
        ModalDecomposition(missing="category").fit_columns([MISSING_LABEL, None, "a"], [1, 2, 2])


def test_columns_of_shared_objects_are_counted_by_value():
    rng = np.random.default_rng(0)
    names = np.array(["a", "bb", None, "".join(["b", "b"]), 1.5, float("nan"), "z", "yy"], dtype=object)
    assert names[1] is not names[3]
    places = rng.integers(0, 6, 200_000)
    places[150_000:] = rng.integers(0, 8, 50_000)  # two names that the first rows do not have
    x, y = names[places], np.array(["u", "v"], dtype=object)[places % 2]
    for column in (x, pd.Series(x, dtype=object), x[::-1][::-1], x.tolist()):
        codes, labels = factor(column, "x")
        expected = pd.factorize(x)
        np.testing.assert_array_equal(codes, expected[0])
        assert labels == list(expected[1]) == sorted(labels, key=labels.index)
    fit = ModalDecomposition(n_components=1).fit_columns(x, y)
    np.testing.assert_array_equal(
        fit.table_.counts, pd.crosstab(pd.Series(x), pd.Series(y)).loc[fit.row_labels_]
    )
    different = np.array([f"{i % 7}" for i in range(20_000)], dtype=object)  # no two are one object
    np.testing.assert_array_equal(factor(different, "x")[0], np.arange(20_000) % 7)


@pytest.mark.parametrize("few", [True, False])
def test_arrow_strings_are_coded_in_order_of_appearance(few):
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(9)] if few else [f"c{i}" for i in range(9_000)]
    places = rng.integers(0, len(names) - 2, 100_000)
    places[HEAD + 100 :] += 2  # labels that the first rows do not have
    for missing in (False, True):
        x = pd.Series(np.array(names, dtype=object)[places], dtype="str")
        x[places == 3] = np.nan if missing else "c3"
        forms = (x, x.array, x[::-1][::-1], pd.concat([x[:70_000], x[70_000:]]), pd.Index(x))
        expected = pd.factorize(x.astype(object))
        for column in forms:
            codes, labels = factor(column, "x")
            np.testing.assert_array_equal(codes, expected[0])
            assert labels == list(expected[1])
    assert factor(x[:0], "x")[1] == []


def test_unobserved_levels_of_a_categorical_are_empty_rows():
    x = pd.Categorical(["lo", "hi", "hi", "lo"], categories=["lo", "mid", "hi"])
    with pytest.warns(FeatgeoWarning, match=r"1 empty rows .* mid"):
        fit = ModalDecomposition().fit_columns(x, [0, 1, 1, 1])
    assert list(fit.row_labels_) == ["lo", "mid", "hi"]
    assert np.isnan(fit.row_functions_[1]).all()


def test_labels_sort_by_value_and_mixed_labels_still_have_an_order():
    fit = ModalDecomposition().fit_columns(["10", "9", "9", "10", "1"], [1, "a", 1, (2, 3), 1])
    assert list(fit.row_labels_) == ["1", "9", "10"]
    assert set(fit.column_labels_) == {1, "a", (2, 3)}
    assert fit.transform_labels(["9"]).shape == (1, 2)
    assert fit.transform_labels([(2, 3), "a"], axis="columns").shape == (2, 2)
