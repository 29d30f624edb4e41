"""Files packed by gzip and bzip2."""

from __future__ import annotations

import bz2
import gc
import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_emseg.io import open_stack


@pytest.mark.parametrize(("ending", "packer"), [("gz", gzip), ("bz2", bz2)])
def test_unpacked_beside_and_cleared_away(
    tmp_path: Path,
    stack: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    packer: object,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    packed = tmp_path / f"a.tif.{ending}"
    packed.write_bytes(packer.compress((tmp_path / "a.tif").read_bytes()))
    opened = open_stack(packed)
    np.testing.assert_array_equal(opened.section(3), stack[3])
    assert opened.name == "a"
    del opened
    gc.collect()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("part", [0.1, 0.6, 0.99])
def test_cut_short(tmp_path: Path, stack: np.ndarray, part: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    raw = gzip.compress((tmp_path / "a.tif").read_bytes())
    (tmp_path / "a.tif.gz").write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(OSError, match=r"a\.tif\.gz: "):
        open_stack(tmp_path / "a.tif.gz")
