from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_emseg.core.stack import Stack, as_stack, check_voxel_size, sections_asked


def test_nothing_is_read_before_it_is_sliced() -> None:
    read = []

    def block(block_info):
        read.append(block_info[None]["chunk-location"][0])
        return np.zeros((1, 4, 5), np.uint8)

    lazy = da.map_blocks(block, chunks=((1,) * 3, 4, 5), dtype=np.uint8)
    stack = Stack(lazy)
    assert stack.shape == (3, 4, 5)
    assert stack.dtype == np.uint8
    assert read == []
    assert stack.section(1).shape == (4, 5)
    assert read == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 5)), r"non-empty \(z, y, x\) array, got shape \(4, 5\)"),
        (np.zeros((1, 2, 3, 4)), "got shape"),
        (np.zeros((0, 4, 5)), "non-empty"),
        (np.zeros((1, 4, 5), complex), "not complex128"),
        (np.zeros((1, 4, 5), "U3"), "real numbers"),
    ],
)
def test_what_is_no_stack_is_refused(data: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"em: .*{message}"):
        Stack(data, name="em")


@pytest.mark.parametrize("z", [-1, 2])
def test_a_missing_section_is_named(z: int) -> None:
    with pytest.raises(IndexError, match=rf"em: no section {z}; sections are 0\.\.1"):
        Stack(np.zeros((2, 4, 5)), name="em").section(z)


def test_voxel_sizes_are_floats_and_z_may_be_unknown() -> None:
    assert check_voxel_size([50, 4, 4]) == (50.0, 4.0, 4.0)
    assert check_voxel_size((None, 4, 4.5)) == (None, 4.0, 4.5)
    assert Stack(np.zeros((1, 2, 2)), voxel_size_nm=(50, 4, 4)).voxel_size_nm == (
        50.0,
        4.0,
        4.0,
    )


@pytest.mark.parametrize(
    "size",
    [(50, 4), (50, 0, 4), (50, -4, 4), (50, 4, None), (50, np.nan, 4), "abc", None, 4],
)
def test_senseless_voxel_sizes_are_refused(size: object) -> None:
    with pytest.raises(ValueError, match="three numbers above 0"):
        check_voxel_size(size)


def test_the_user_s_voxel_size_wins() -> None:
    stack = Stack(np.zeros((1, 2, 2)), name="em", voxel_size_nm=(50, 4, 4))
    assert stack.with_voxel_size((40, 8, 8)).voxel_size_nm == (40, 8, 8)
    assert stack.with_voxel_size((40, 8, 8)).name == "em"
    assert stack.with_voxel_size(None) is stack
    with pytest.raises(ValueError, match="three numbers"):
        stack.with_voxel_size((0, 0, 0))


def test_arrays_become_stacks() -> None:
    stack = Stack(np.zeros((1, 2, 3)))
    assert as_stack(stack) is stack
    assert as_stack(np.zeros((2, 3))).shape == (1, 2, 3)
    assert as_stack(np.zeros((5, 2, 3)), name="p").name == "p"


def test_sections_are_asked_for_once_and_must_exist() -> None:
    stack = Stack(np.zeros((3, 4, 4), np.uint8), name="em")
    assert sections_asked(None, stack) == (0, 1, 2)
    assert sections_asked([2, 0, 2], stack) == (2, 0)
    with pytest.raises(ValueError, match=r"em: no section 3; sections are 0\.\.2"):
        sections_asked([0, 3], stack)
    with pytest.raises(ValueError, match="no section is asked for"):
        sections_asked([], stack)
