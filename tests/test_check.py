from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.check import SectionCheck, check_stack
from napari_emseg.core.records import Progress, drain
from napari_emseg.core.settings import CheckSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.sample import synthetic, vnc


def findings(
    data: NDArray[np.generic], settings: CheckSettings | None = None
) -> list[tuple[int, str]]:
    return [(f.z, f.kind) for f in drain(check_stack(Stack(data), settings=settings))]


@pytest.fixture
def sections() -> NDArray[np.uint8]:
    """Eight sections without drift, so that nothing is wrong with them."""
    stack, _ = synthetic((1, 200, 220), seed=3)
    rng = np.random.default_rng(0)
    data = stack.section(0).astype(float) + rng.normal(0, 4, (8, 200, 220))
    return np.clip(data, 1, 254).astype(np.uint8)


def test_nothing_is_wrong_with_good_sections(sections: NDArray[np.uint8]) -> None:
    assert findings(sections) == []


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e300, "f8"), (1e-300, "f8"), (1e36, "f4")]
)
def test_size_of_grey_values_does_not_matter(
    sections: NDArray[np.uint8], scale: float, dtype: str
) -> None:
    assert findings((sections[:3] * scale).astype(dtype)) == []


def test_a_few_values_of_minus_1e30(sections: NDArray[np.uint8]) -> None:
    data = sections[:3].astype(np.float32)
    data[:, 80:84, 90:100] = -1e30
    assert findings(data) == []
    assert findings(np.full_like(data, -1e30)) == [(z, "blank") for z in range(3)]


def test_nothing_is_wrong_with_the_sample() -> None:
    assert drain(check_stack(vnc())) == []


@pytest.mark.parametrize("value", [0, 7, 255])
def test_blank(sections: NDArray[np.uint8], value: int) -> None:
    sections[5] = value
    assert findings(sections) == [(5, "blank")]


def test_a_section_without_finite_values_is_not_called_blank(
    sections: NDArray[np.uint8],
) -> None:
    data = sections.astype(np.float32)
    data[2] = np.nan
    data[4, :50] = np.nan
    (found,) = drain(check_stack(Stack(data)))
    assert (found.z, found.kind) == (2, "no values")
    assert found.words == "has no finite values"


def test_blurred(sections: NDArray[np.uint8]) -> None:
    sections[3] = ndi.gaussian_filter(sections[3], 2)
    assert (3, "blurred") in findings(sections)


def test_contrast(sections: NDArray[np.uint8]) -> None:
    sections[6] = 100 + sections[6] // 4
    assert (6, "contrast") in findings(sections)


def test_jump_is_measured_in_px(sections: NDArray[np.uint8]) -> None:
    sections[4:] = np.roll(sections[4:], (12, -16), axis=(1, 2))
    (found,) = drain(check_stack(Stack(sections)))
    assert (found.z, found.kind) == (4, "jump")
    assert found.value == pytest.approx(20, abs=1)
    assert "section 3" in found.words


def test_jump_bridges_a_blank_section(sections: NDArray[np.uint8]) -> None:
    sections[4] = 0
    sections[5:] = np.roll(sections[5:], 20, axis=1)
    assert findings(sections) == [(4, "blank"), (5, "jump")]


def test_jumps_of_large_sections_are_in_px_too() -> None:
    stack, _ = synthetic((1, 2100, 2100), seed=1)
    first = stack.section(0)
    data = np.stack([first, np.roll(first, 40, axis=0)])
    (found,) = drain(check_stack(Stack(data)))
    assert found.value == pytest.approx(40, abs=2)


def test_settings_move_the_bounds(sections: NDArray[np.uint8]) -> None:
    sections[4:] = np.roll(sections[4:], 5, axis=1)
    assert findings(sections) == []
    assert findings(sections, CheckSettings(jump=4)) == [(4, "jump")]


def test_unreadable_section_is_named_and_the_others_are_checked(
    sections: NDArray[np.uint8],
) -> None:
    class Damaged:
        shape, dtype = sections.shape, sections.dtype

        def __getitem__(self, z: int) -> NDArray[np.uint8]:
            if z == 2:
                msg = "page 2 is truncated"
                raise OSError(msg)
            return sections[z]

    (found,) = drain(check_stack(Stack(Damaged())))
    assert found == SectionCheck(
        2, "unreadable", 0.0, "can't be read: page 2 is truncated"
    )


def test_padding_is_no_blur_and_no_contrast(sections: NDArray[np.uint8]) -> None:
    sections[2, :60] = 0
    sections[5, :, -40:] = 255
    assert findings(sections) == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 64, 64)])
def test_tiny_stacks(shape: tuple[int, int, int]) -> None:
    drain(check_stack(Stack(np.random.default_rng(0).random(shape))))


def test_progress_comes_after_each_section(sections: NDArray[np.uint8]) -> None:
    records = list(check_stack(Stack(sections)))
    assert records == [Progress("checking", z + 1, 8) for z in range(8)]


@pytest.mark.shared_data
def test_blank_section_of_a_real_stack(shared_data: Path) -> None:
    stack = open_stack(shared_data / "cremi_c_crop" / "image.tif")
    found = drain(check_stack(stack))
    assert [(f.z, f.kind) for f in found] == [(14, "blank")]


@pytest.mark.shared_data
def test_jump_of_a_real_stack(shared_data: Path) -> None:
    stack = open_stack(shared_data / "isbi2012" / "images")
    names = [z for z in range(30) if z not in (6, 7, 8, 22, 23, 24)]
    found = drain(check_stack(stack))
    assert 10 in [names[f.z] for f in found if f.kind == "jump"]
