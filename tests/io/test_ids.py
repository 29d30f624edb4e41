"""Cells in formats of small numbers: kept, renumbered or as float; else refused."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_emseg.io import Ids, OutputFormat, open_sink, open_stack, save_stack
from napari_emseg.io.errors import IdsDontFitError, OutputExistsError

narrow = pytest.mark.parametrize("format", ["fiji", "mrc"])
NAMES: dict[str, str] = {"fiji": "a.tif", "mrc": "a.mrc"}


def _stored(path: Path) -> np.ndarray:
    """Read with another library, rows from the top."""
    if path.suffix == ".tif":
        values = tifffile.imread(path)
        return values if values.ndim == 3 else values[None]
    with mrcfile.open(path) as mrc:
        return mrc.data[:, ::-1].copy()


@narrow
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_small_ids_are_kept(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
    data: st.DataObject,
) -> None:
    dtype = data.draw(st.sampled_from([np.uint32, np.uint64, np.int64, np.int32]))
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    values = data.draw(arrays(dtype, shape, elements=st.integers(0, 65_535)))
    path = save_stack(tmp_path / NAMES[format], values, format=format, overwrite=True)
    assert _stored(path).dtype == np.uint16
    np.testing.assert_array_equal(_stored(path).reshape(shape), values)


@narrow
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_renumbered_ids_name_the_same_cells(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
    data: st.DataObject,
) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    large = st.integers(0, 2**64 - 1)
    values = data.draw(arrays(np.uint64, shape, elements=large, fill=st.just(0)))
    path = save_stack(
        tmp_path / NAMES[format], values, format=format, ids="renumber", overwrite=True
    )
    stored = _stored(path).reshape(shape)
    pairs = {*zip(values.ravel().tolist(), stored.ravel().tolist(), strict=True)}
    ids = sorted({value for value, _ in pairs} - {0})
    assert pairs - {(0, 0)} == {(value, k) for k, value in enumerate(ids, start=1)}


@narrow
def test_large_ids_are_refused_with_the_choices(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
) -> None:
    values = np.array([[[0, 1, 65_536]]], np.uint32)
    path = tmp_path / NAMES[format]
    with pytest.raises(
        ValueError,
        match=r"2 cells have ids up to 65,536, more than the 65,535 .*"
        r"renumber.*float.*another format",
    ):
        save_stack(path, values, format=format)
    assert list(tmp_path.iterdir()) == []
    assert _stored(save_stack(path, values, format=format, ids="float")).tolist() == [
        [[0, 1, 65_536]]
    ]


def test_ids_too_large_for_float(tmp_path: Path) -> None:
    values = np.array([[[0, 2**24 + 1]]], np.uint32)
    with pytest.raises(ValueError, match=r"up to 16,777,217.*renumber") as e:
        save_stack(tmp_path / "a.tif", values, format="fiji", ids="float")
    assert "ids float" not in str(e.value)


def test_more_cells_than_numbers(tmp_path: Path) -> None:
    values = np.arange(1, 65_537 + 1, dtype=np.uint32)[None, None]
    with pytest.raises(ValueError, match="65,537 cells") as e:
        save_stack(tmp_path / "a.tif", values, format="fiji", ids="renumber")
    assert "ids renumber" not in str(e.value)


def test_negative_ids(tmp_path: Path) -> None:
    values = np.array([[[0, 1]], [[-3, 2]]], np.int64)
    with pytest.raises(ValueError, match="section 1 has the id -3"):
        save_stack(tmp_path / "a.tif", values, format="fiji")


def test_an_unknown_choice(tmp_path: Path) -> None:
    wrong: Ids = "guess"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="keep, renumber, float; got 'guess'"):
        save_stack(
            tmp_path / "a.tif", np.ones((1, 2, 2), np.uint32), format="fiji", ids=wrong
        )


@narrow
def test_a_sink_that_is_filled_keeps_what_does_not_fit(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
) -> None:
    values = np.array([[[0, 1]], [[70_000, 0]]], np.uint32)
    path = tmp_path / NAMES[format]

    def fill() -> None:
        with open_sink(path, values.shape, values.dtype, format=format) as sink:
            sink.write(1, values[1])
            sink.write(0, values[0])

    with pytest.raises(IdsDontFitError, match="They are whole in") as info:
        fill()
    kept = tmp_path / f"{path.name}.ids.tif"
    assert tuple(info.value.ways) == ("renumber", "float")
    assert info.value.kept == (kept, path, format)
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]
    np.testing.assert_array_equal(open_stack(kept).data[:], values)
    save_stack(path, open_stack(kept), format=format, ids="renumber")
    assert _stored(path).tolist() == [[[0, 1]], [[2, 0]]]


@narrow
def test_ids_that_wait_replace_nothing_unasked(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
) -> None:
    """`NAME.ids.tif` may be there: of a run before, or somebody's own."""
    path = tmp_path / NAMES[format]
    beside = tmp_path / f"{path.name}.ids.tif"
    beside.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"ids\.tif exists already"):
        open_sink(path, (1, 1, 2), np.uint32, format=format)
    assert beside.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == [beside.name]
    save_stack(path, np.ones((1, 1, 2), np.uint32), format=format)  # nothing waits
    assert beside.read_text() == "mine"
    open_sink(path, (1, 1, 2), np.uint32, format=format, overwrite=True).abort()


@narrow
def test_a_sink_that_is_filled_leaves_nothing_beside(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
) -> None:
    path = tmp_path / NAMES[format]
    with open_sink(path, (1, 1, 2), np.uint32, format=format) as sink:
        sink.write(0, np.array([[3, 9]], np.uint32))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert _stored(path).tolist() == [[[3, 9]]]


def test_a_sink_refuses_at_once_what_exists(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("mine")
    with pytest.raises(FileExistsError):
        open_sink(tmp_path / "a.tif", (1, 2, 2), np.uint32, format="fiji")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("letter", ["l", "q", "L", "Q", ">u8", ">i8"])
@pytest.mark.parametrize("ending", [".tif", ".zarr", ".h5"])
def test_64_bit_by_any_name(tmp_path: Path, letter: str, ending: str) -> None:
    ids = np.arange(3 * 8 * 9).reshape(3, 8, 9).astype(letter) * 2**33
    path = save_stack(tmp_path / f"a{ending}", ids)
    stored = open_stack(path)
    assert stored.dtype.kind == (
        "i" if ending == ".zarr" and "i" in ids.dtype.str else "u"
    )
    np.testing.assert_array_equal(stored.data[:], ids)
