from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_emseg.core import intensity, padding
from napari_emseg.core.intensity import normalise, section_range
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.inference import sections
from napari_emseg.inference.sections import SectionReader

RULE = Normalisation()


class Chunked:
    """Like a zarr array: a window is read without the rest; counts what is read."""

    def __init__(self, data: NDArray[Any], chunks: Any = (1, 64, 64)) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype
        self.chunks = chunks
        self.most = 0

    def __getitem__(self, key: Any) -> NDArray[Any]:
        values = self.data[key]
        self.most = max(self.most, values.size)
        return values


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    values = np.random.default_rng(0).integers(1, 250, (1, 500, 400), dtype=np.uint8)
    values[0, :, :37] = 0
    values[0, 300:310, 200:210] = 0  # dark, but inside
    return values


AREA = slice(280, 340), slice(20, 230)


def test_windows_are_normalised_like_the_whole(picture: NDArray[np.uint8]) -> None:
    section = SectionReader(Stack(picture), RULE, invert=False).open(0)
    tissue = picture[0, :, 37:]
    assert section.grey == section_range(tissue, RULE)
    expected = normalise(picture[0], section.grey)
    np.testing.assert_array_equal(section.window(*AREA), expected[AREA])
    assert section.empty is not None
    np.testing.assert_array_equal(
        section.empty(AREA), np.broadcast_to(np.arange(20, 230) < 37, (60, 210))
    )


@pytest.mark.parametrize("chunks", [(1, 64, 64), ((1,), (250, 250), (200, 200))])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_huge_sections_are_read_by_windows(
    picture: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    chunks: Any,
) -> None:
    """A chunked array beyond a limit is never read whole, and looks the same."""
    monkeypatch.setattr(padding, "BLOCK", 128)
    monkeypatch.setattr(
        sections, "find_padding", partial(padding.find_padding, side=128)
    )
    monkeypatch.setattr(intensity, "SAMPLE_SIDE", 130)
    values = picture.astype(dtype)
    if dtype == "float32":
        values[0, 320, 100] = np.nan
    data = Chunked(values, chunks)
    section = SectionReader(Stack(data), RULE, invert=False, most=300 * 300).open(0)
    whole = SectionReader(Stack(values), RULE, invert=False).open(0)
    assert section.grey == whole.grey
    expected = normalise(values[0], section.grey)
    np.testing.assert_array_equal(section.window(*AREA), expected[AREA])
    assert section.empty is not None
    empty = np.broadcast_to(np.arange(20, 230) < 37, (60, 210)).copy()
    if dtype == "float32":
        empty[40, 80] = True
    np.testing.assert_array_equal(section.empty(AREA), empty)
    assert data.most < 200 * 200


@pytest.mark.parametrize("chunks", [None, (1, 500, 400)])
def test_huge_sections_in_one_piece_are_read_once(
    picture: NDArray[np.uint8], chunks: Any
) -> None:
    """Else each window would decode the whole section again."""
    data = Chunked(picture, chunks)
    section = SectionReader(Stack(data), RULE, invert=False, most=300 * 300).open(0)
    data.most = 0
    section.window(*AREA)
    assert data.most == 0


def test_a_stack_wide_range_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 100, (4, 50, 50), dtype=np.uint8)
    values[2:] += 100
    calls = []
    found = sections.stack_range
    monkeypatch.setattr(
        sections,
        "stack_range",
        lambda *a, **more: calls.append(1) or found(*a, **more),
    )
    rule = RULE.model_copy(update={"scope": "stack"})
    reader = SectionReader(Stack(values), rule, invert=False)
    ranges = [reader.open(z).grey for z in range(4)]
    assert len(set(ranges)) == 1
    assert len(calls) == 1
    assert ranges[0].low < 20
    assert ranges[0].high > 180
