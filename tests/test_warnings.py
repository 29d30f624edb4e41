"""Warnings of our own code are errors; those of other packages are only shown."""

from __future__ import annotations

import warnings

import pytest


def warn(module: str, category: type[Warning]) -> None:
    """Warn as a module of that name would."""
    code = "import warnings; warnings.warn('soon gone', category)"
    exec(code, {"__name__": module, "category": category})


@pytest.mark.parametrize(
    "category", [DeprecationWarning, FutureWarning, UserWarning, RuntimeWarning]
)
class TestWarnings:
    @pytest.mark.parametrize(
        "module",
        [
            "napari_emseg",
            "napari_emseg.io.tiff",
            "test_tiff",
            "conftest",
            "thin",
            "killing",
            "_pytest.unraisableexception",
        ],
    )
    def test_of_our_own_are_errors(self, module, category):
        with pytest.raises(category, match="soon gone"):
            warn(module, category)

    @pytest.mark.parametrize(
        "module", ["mrcfile.mrcinterpreter", "skimage.measure", "importlib._bootstrap"]
    )
    def test_of_other_packages_are_shown(self, module, category):
        with warnings.catch_warnings(record=True) as seen:
            warn(module, category)
        (shown,) = seen
        assert str(shown.message) == "soon gone"


@pytest.mark.parametrize(
    "module", ["tifffile.tifffile", "threading", "napari_emseg.io"]
)
def test_a_file_left_open_is_an_error_whoever_runs_meanwhile(module):
    with pytest.raises(ResourceWarning):
        warn(module, ResourceWarning)
