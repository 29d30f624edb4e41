"""MRC output, reopened by mrcfile and checked as IMOD reads it."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, read_provenance, save_stack

MODES = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6}


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(sorted(MODES))))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    values = data.draw(arrays(dtype, shape))
    path = save_stack(tmp_path / "a.mrc", values, overwrite=True)
    np.testing.assert_array_equal(open_stack(path).data[:], values, strict=True)
    with mrcfile.open(path) as mrc:
        assert int(mrc.header.mode) == MODES[dtype.name]
        stored = mrc.data[:, ::-1].astype(np.float64)
    shift = 128 if dtype == np.uint8 else 0
    np.testing.assert_array_equal(stored + shift, values.astype(np.float64))


def test_header(tmp_path: Path, stack: np.ndarray) -> None:
    path = save_stack(tmp_path / "a.mrc", stack, voxel_size_nm=(50, 5, 4))
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        header = mrc.header
        assert mrc.is_volume()
        assert mrc.voxel_size.tolist() == pytest.approx((40, 50, 500))  # x, y, z in Å
        assert header.cella.tolist() == pytest.approx((33 * 40, 20 * 50, 5 * 500))
        assert (header.mx, header.my, header.mz) == (33, 20, 5)
        assert header.origin.tolist() == (0, 0, 0)
        assert (header.nxstart, header.nystart, header.nzstart) == (0, 0, 0)
        assert (header.mapc, header.mapr, header.maps) == (1, 2, 3)
        low, high = int(stack.min()) - 128, int(stack.max()) - 128
        assert (header.dmin, header.dmax) == (low, high)
        assert header.dmean == pytest.approx(stack.mean() - 128, rel=1e-5)
        assert header.rms == pytest.approx(stack.std(), rel=1e-5)


def test_bytes_are_signed_and_say_so_in_imods_flags(
    tmp_path: Path, stack: np.ndarray
) -> None:
    path = save_stack(tmp_path / "a.mrc", stack)
    stamp, flags = np.fromfile(path, "<i4", 2, offset=152)
    assert (stamp, flags & 1) == (1146047817, 1)
    # IMOD adds 128 to signed bytes
    first = np.fromfile(path, np.int8, 33, offset=1024).astype(int) + 128
    np.testing.assert_array_equal(first, stack[0, -1])


def test_the_last_row_comes_first_since_imod_draws_upwards(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.int16).reshape(1, 3, 2)
    path = save_stack(tmp_path / "a.mrc", values)
    stored = np.fromfile(path, "<i2", 6, offset=1024).tolist()
    assert stored == [4, 5, 2, 3, 0, 1]


def test_results_lie_on_an_mrc_source_as_it_is_stored(
    tmp_path: Path, stack: np.ndarray
) -> None:
    """What comes from an MRC file goes back in the order of its rows."""
    em = tmp_path / "em.rec"
    with mrcfile.new(em) as mrc:
        mrc.set_data(stack.astype(np.int16))
    source = open_stack(em)
    made = Provenance(kind="cells", source=source.source)
    path = save_stack(tmp_path / "cells.mrc", source, provenance=made)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, stack)
    np.testing.assert_array_equal(open_stack(path).data[:], stack)


def test_also_a_picture_without_provenance(tmp_path: Path, stack: np.ndarray) -> None:
    em = tmp_path / "em.mrc"
    with mrcfile.new(em) as mrc:
        mrc.set_data(stack.astype(np.int16))
    path = save_stack(tmp_path / "copy.mrc", open_stack(em))
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, stack)


def test_a_copy_of_our_own_file_is_the_same(tmp_path: Path, stack: np.ndarray) -> None:
    first = save_stack(tmp_path / "a.mrc", stack)
    second = save_stack(tmp_path / "b.mrc", open_stack(first))
    a, b = (path.read_bytes()[1024:] for path in (first, second))
    assert a == b


def test_a_source_that_has_gone_is_known_by_its_name(
    tmp_path: Path, stack: np.ndarray
) -> None:
    made = Provenance(kind="cells", source="gone/em.rec")
    values = stack.astype(np.int16)
    path = save_stack(tmp_path / "a.mrc", values, provenance=made)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, values)


@pytest.mark.parametrize(
    ("size", "label"),
    [(None, "voxel size unknown"), ((None, 5, 4), "distance of sections unknown")],
)
def test_an_unknown_size_is_0_and_said(
    tmp_path: Path, stack: np.ndarray, size: tuple[None, float, float], label: str
) -> None:
    path = save_stack(tmp_path / "a.mrc", stack, voxel_size_nm=size)
    with mrcfile.open(path) as mrc:
        assert mrc.header.cella.z == 0
        assert label in mrc.get_labels()
    assert open_stack(path).voxel_size_nm == size


def test_a_long_provenance_is_cut_down_to_its_facts(
    tmp_path: Path, stack: np.ndarray
) -> None:
    made = Provenance(
        kind="membrane",
        weights="w",
        threshold=0.4,
        scale=255,
        settings={str(k): "long " * 5 for k in range(40)},
    )
    path = save_stack(tmp_path / "a.mrc", stack, provenance=made)
    found = read_provenance(path)
    assert found == made.model_copy(update={"settings": {}})


def test_nan_counts_for_nothing_in_the_header(tmp_path: Path) -> None:
    values = np.array([[[np.nan, 1, 3]]], np.float32)
    path = save_stack(tmp_path / "a.mrc", values)
    with mrcfile.mmap(path, permissive=True) as mrc:
        assert (mrc.header.dmin, mrc.header.dmean, mrc.header.dmax) == (1, 2, 3)


@pytest.mark.parametrize("dtype", ["float64", "bool"])
def test_types_it_does_not_take(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=rf"takes int8, .*got {dtype}"):
        save_stack(tmp_path / "a.mrc", Stack(np.ones((2, 3, 4), dtype)))
    assert list(tmp_path.iterdir()) == []
