from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(code: str) -> set[str]:
    """Run code in a new process; return the names of the modules it has then."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(told.stdout.split())


def test_numba_is_loaded_with_the_first_kernel() -> None:
    assert "numba" not in run("import napari_emseg.core.compiler")


def test_kernels_work_where_no_cache_can_be_written() -> None:
    """As in a read-only container: numba finds no place and compiles anew."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from napari_emseg.core.compiler import compiled
@compiled
def twice(x): return 2 * x
assert twice(4) == 8
"""
    assert "numba" in run(code)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what loads a kernel as a new process does, and its cache's folder."""
    import numba

    folder = tmp_path / "cache"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    source = tmp_path / "kernels.py"
    source.write_text(
        "from napari_emseg.core.compiler import compiled\n"
        "@compiled\ndef twice(x):\n    return 2 * x\n"
    )

    def load() -> Any:
        names: dict[str, Any] = {"__name__": "kernels", "__file__": str(source)}
        exec(compile(source.read_text(), str(source), "exec"), names)
        return names["twice"]

    return load, folder


@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_counts_for_nothing(kernel: Any, damaged: str) -> None:
    load, folder = kernel
    assert load()(4) == 8
    (path,) = folder.rglob(damaged)
    whole = path.stat().st_size
    os.truncate(path, 25)
    assert load()(4) == 8
    assert path.stat().st_size == whole
    again = load()
    assert again(4) == 8
    assert again.stats.cache_hits


def test_kernels_work_where_the_disk_is_full(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core.caching import IndexDataCacheFile

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    load, _ = kernel
    assert load()(4) == 8
