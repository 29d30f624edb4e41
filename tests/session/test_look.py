from __future__ import annotations

import numpy as np
import pytest

from napari_emseg.core.records import drain
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.sample import vnc
from napari_emseg.session.look import THUMBNAIL, looking, membranes_of


def test_bundled_em_has_dark_membranes_either_way_round() -> None:
    for z in range(6):
        section = np.asarray(vnc().section(z))
        assert membranes_of(section) == "dark"
        assert membranes_of(255 - section) == "bright"


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name",
    [
        "isbi2012/images",
        "isbi2012/test_images",
        "vnc/stack2_raw.tif",
        "cortex_ac4/raw_00-29.tif",
        "cremi_c_crop/image.tif",
        "fib25/ts2_raw_150-249.tif",
    ],
)
def test_em_of_other_tissues_and_microscopes(shared_data, name) -> None:
    stack = open_stack(shared_data / name)
    for z in {0, 5, stack.shape[0] - 1}:
        section = np.asarray(stack.section(z))
        assert membranes_of(section) == "dark"
        assert membranes_of(255 - section) == "bright"


@pytest.mark.parametrize(
    "section",
    [
        np.zeros((64, 64), np.uint8),
        np.full((64, 64), np.nan, np.float32),
        np.zeros((1, 1), np.uint8),
    ],
    ids=["black", "nan", "one pixel"],
)
def test_nothing_to_see_is_unclear(section) -> None:
    assert membranes_of(section) == "unclear"


def test_alignment_padding_does_not_count() -> None:
    section = np.zeros((700, 700), np.uint8)
    section[100:612, 90:602] = np.asarray(vnc().section(0))
    assert membranes_of(section) == "dark"
    assert membranes_of(np.where(section == 0, 0, 255 - section)) == "bright"


def test_pictures_are_small_and_opposite() -> None:
    look = drain(looking(vnc(), 2))
    assert look.as_it_is.shape == (THUMBNAIL, THUMBNAIL)
    np.testing.assert_allclose(look.as_it_is + look.inverted, 1)
    assert look.membranes == "dark"
    assert look.z == 2


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 1, 1), (1, 40, 3000)])
def test_small_and_odd_sections(shape) -> None:
    values = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    drain(looking(Stack(values), 0))
