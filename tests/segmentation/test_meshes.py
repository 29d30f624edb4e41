"""Surfaces of cells, reopened by meshio and measured."""

from __future__ import annotations

import json
from pathlib import Path

import meshio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_emseg.core.records import Note, drain
from napari_emseg.core.stack import Stack
from napari_emseg.segmentation import meshes
from napari_emseg.segmentation.meshes import MeshFormat, saving_meshes

SIZE = (50.0, 5.0, 4.0)


def _measure(path: Path) -> tuple[float, np.ndarray, np.ndarray]:
    """Return enclosed volume and corners of the box, `(x, y, z)` in nm."""
    mesh = meshio.read(path)
    points = mesh.points.astype(float)
    a, b, c = (points[mesh.cells_dict["triangle"][:, k]] for k in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    return float(volume), points.min(axis=0), points.max(axis=0)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    start=st.tuples(*[st.integers(0, 4)] * 3),
    extent=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_a_brick_is_where_it_should_be(
    tmp_path_factory: pytest.TempPathFactory,
    start: tuple[int, int, int],
    extent: tuple[int, int, int],
) -> None:
    cells = np.zeros((10, 10, 10), np.uint32)
    where = tuple(slice(a, a + n) for a, n in zip(start, extent, strict=True))
    cells[where] = 70_000
    folder = drain(
        saving_meshes(
            Stack(cells, voxel_size_nm=SIZE), tmp_path_factory.mktemp("m") / "out"
        )
    )
    volume, low, high = _measure(folder / "cell_70000.ply")
    first = (np.array(start) - 0.5) * SIZE
    last = (np.array(start) + extent - 0.5) * SIZE
    np.testing.assert_allclose(low, first[::-1], atol=1e-2)
    np.testing.assert_allclose(high, last[::-1], atol=1e-2)
    whole = np.prod(np.array(extent) * SIZE)
    assert 0 < volume <= whole  # corners are cut; faces look outward


@pytest.mark.parametrize("format", ["ply", "obj", "stl"])
def test_the_volume_of_a_ball(tmp_path: Path, format: MeshFormat) -> None:  # noqa: A002
    z, y, x = np.mgrid[-6:7, -60:61, -75:76]
    ball = (z * 50) ** 2 + (y * 5) ** 2 + (x * 4) ** 2 < 280**2
    stack = Stack(ball.astype(np.uint32) * 3, voxel_size_nm=SIZE)
    folder = drain(saving_meshes(stack, tmp_path / "out", format=format))
    volume, _, _ = _measure(folder / f"cell_3.{format}")
    assert volume == pytest.approx(ball.sum() * 1000, rel=0.02)


@pytest.fixture
def stack() -> Stack:
    cells = np.zeros((3, 20, 20), np.uint32)
    cells[:, :3, :3], cells[:2, 10:18, 10:18], cells[1, 15:, :5] = 5, 9, 2
    return Stack(cells, voxel_size_nm=SIZE)


def test_the_largest_or_those_that_are_named(tmp_path: Path, stack: Stack) -> None:
    drain(saving_meshes(stack, tmp_path / "a", largest=2))
    assert sorted(p.name for p in (tmp_path / "a").glob("cell*")) == [
        "cell_5.ply",
        "cell_9.ply",
    ]
    drain(saving_meshes(stack, tmp_path / "b", ids=[2]))
    facts = json.loads((tmp_path / "b" / "meshes.json").read_text())
    assert list(facts["cells"]) == ["cell_2.ply"]
    assert (facts["unit"], facts["voxel_size_nm"]) == ("nanometer", [50, 5, 4])


def test_large_cells_are_coarser_and_said_so(
    tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meshes, "LARGEST_BOX", 2 * 8 * 8 // 4)
    records = list(saving_meshes(stack, tmp_path / "a", ids=[9]))
    notes = [record.message for record in records if isinstance(record, Note)]
    assert notes == ["cell 9 is large: one row and column in 2 is used"]
    volume, _, _ = _measure(tmp_path / "a" / "cell_9.ply")
    assert volume == pytest.approx(2 * 8 * 8 * 1000, rel=0.3)


@pytest.mark.parametrize("size", [None, (None, 5, 4)])
def test_an_unknown_size_is_refused(tmp_path: Path, stack: Stack, size) -> None:
    with pytest.raises(ValueError, match=r"meshes are in nm.*is unknown"):
        drain(saving_meshes(Stack(stack.data, voxel_size_nm=size), tmp_path / "a"))


def test_other_refusals(
    tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no cell 4; the cells have 3 ids"):
        drain(saving_meshes(stack, tmp_path / "a", ids=[4]))
    empty = Stack(np.zeros((2, 3, 4), np.uint32), voxel_size_nm=SIZE)
    with pytest.raises(ValueError, match="no cells"):
        drain(saving_meshes(empty, tmp_path / "a"))
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        drain(saving_meshes(stack, tmp_path / "b"))
    monkeypatch.setattr(meshes, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="need trimesh: pip install"):
        drain(saving_meshes(stack, tmp_path / "a"))
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_stopping_leaves_nothing(tmp_path: Path, stack: Stack) -> None:
    work = saving_meshes(stack, tmp_path / "a")
    for _ in range(4):  # three sections and a mesh
        next(work)
    assert {p.suffix for p in tmp_path.iterdir()} == {".part", ".emseg-lock"}
    work.close()
    assert list(tmp_path.iterdir()) == []
