from __future__ import annotations

import numpy as np

from napari_emseg.core.intensity import padding
from napari_emseg.sample import vnc


def noisy(shape=(60, 80)) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, shape).astype(np.uint8)


def test_a_strip_at_the_border_is_padding_however_thin():
    section = noisy()
    section[:, :2] = 0
    expected = np.zeros(section.shape, bool)
    expected[:, :2] = True
    np.testing.assert_array_equal(padding(section), expected)


def test_a_few_saturated_pixels_at_the_border_are_not():
    section = noisy()
    section[:4, 30:38] = 0
    assert padding(section) is None


def test_two_areas_are_judged_one_by_one():
    section = noisy()
    section[-10:, :20] = 255
    section[:4, 30:38] = 255
    found = padding(section)
    assert found[-10:, :20].all()
    assert not found[:10].any()


def test_the_bundled_sample_has_no_padding():
    for z in range(6):
        assert padding(vnc().section(z)) is None
