from __future__ import annotations

import subprocess
import sys


def loaded_after(code: str) -> set[str]:
    """Names of the modules that a new process has loaded after `code`."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(told.stdout.split())


def test_nothing_heavy_is_loaded_before_it_is_used():
    loaded = loaded_after("import napari_emseg.metrics")
    assert not loaded & {"numba", "skimage", "scipy", "torch", "napari", "qtpy"}
