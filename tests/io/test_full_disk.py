from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_emseg.core.atomic import DiskFullError, atomic_write
from napari_emseg.core.records import drain
from napari_emseg.core.stack import Stack
from napari_emseg.io import OUTPUT_KINDS, OutputFormat, open_sink, output_kind
from napari_emseg.io.writing import iter_save_labelled
from tests.io.write_and_die import sections

every = pytest.mark.parametrize("name", [kind.name for kind in OUTPUT_KINDS])
WAYS = ("a disk", "a limit")
SHAPE = (12, 512, 512)
ROOM = 2**20
DISK = "emseg-test-"


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a disk of a megabyte, named by this process."""
    unmount_stale()
    name = f"{DISK}{os.getpid()}"
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", name, str(folder)]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        unmount(str(folder))


def unmount(folder: str) -> None:
    """Unmount a disk, also if a test that failed has a file open there."""
    if subprocess.run(["umount", folder], check=False, capture_output=True).returncode:
        subprocess.run(["umount", "--lazy", folder], check=True)


def unmount_stale() -> None:
    """Unmount disks of test runs that were killed."""
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        name, folder = line.split()[:2]
        if name.startswith(DISK) and not psutil.pid_exists(int(name[len(DISK) :])):
            unmount(folder)


@contextmanager
def limited() -> Iterator[None]:
    """Let no file be longer than a few kilobytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM // 8, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=WAYS)
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give a folder in which a file that is long can't be written."""
    folder = tmp_path / "full"
    folder.mkdir()
    with mounted(folder) if request.param == "a disk" else limited():
        yield folder


def noise(name: OutputFormat) -> np.ndarray:
    """Return values that can't be compressed."""
    kind = np.uint32 if output_kind(name).cells_only else np.uint16
    return np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(kind)


def fill(path: Path, name: OutputFormat, values: np.ndarray) -> None:
    """Write a stack."""
    size = (40.0, 4.0, 4.0)
    with open_sink(
        path, SHAPE, values.dtype, format=name, voxel_size_nm=size, overwrite=True
    ) as sink:
        for z, section in enumerate(values):
            sink.write(z, section)


@every
def test_every_format_says_so_and_leaves_nothing_that_looks_whole(
    full: Path, name: OutputFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = type("Usage", (), {"free": 2**40})  # space that goes while a run is on
    monkeypatch.setattr("shutil.disk_usage", lambda folder: plenty)
    path = full / "a"
    with pytest.raises(DiskFullError) as info:
        fill(path, name, noise(name))
    assert info.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert str(path) in info.value.strerror
    assert "make room" in info.value.strerror
    assert "\n" not in info.value.strerror
    assert {p.suffix for p in full.iterdir()} <= {".part"}

    small = np.zeros(SHAPE, noise(name).dtype)[:, :64, :64]
    monkeypatch.setattr(sys.modules[__name__], "SHAPE", small.shape)
    fill(path, name, small)  # with room again
    assert [p.name for p in full.iterdir()] == ["a"]
    assert sections(path).shape == small.shape


@every
def test_what_was_there_stays(
    full: Path, name: OutputFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = type("Usage", (), {"free": 2**40})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: plenty)
    small = np.ones((1, 16, 16), noise(name).dtype)
    monkeypatch.setattr(sys.modules[__name__], "SHAPE", small.shape)
    fill(full / "a", name, small)
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: plenty)
    with pytest.raises(DiskFullError):
        fill(full / "a", name, noise(name))
    assert (sections(full / "a") == 1).all()


def test_a_picture_with_its_cells(full: Path) -> None:
    image = Stack(noise("zarr"))
    with pytest.raises(DiskFullError):
        drain(iter_save_labelled(full / "a.zarr", image, noise("neuroglancer")))
    assert {p.suffix for p in full.iterdir()} <= {".part"}


def test_a_file(full: Path) -> None:
    with pytest.raises(DiskFullError, match="make room"), atomic_write(full / "a") as a:
        a.write(os.urandom(2 * ROOM))
    assert list(full.iterdir()) == []
