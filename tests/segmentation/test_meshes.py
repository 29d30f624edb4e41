"""Surfaces of cells, reopened by meshio and measured."""

from __future__ import annotations

import json
import os
from pathlib import Path

import meshio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_emseg.core.records import Note, drain
from napari_emseg.core.stack import Stack
from napari_emseg.io import save_stack
from napari_emseg.io.errors import OutputExistsError
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


class TestOverwrite:
    def test_meshes_are_replaced_only_if_that_is_said(
        self, tmp_path: Path, stack: Stack
    ) -> None:
        place = tmp_path / "m"
        drain(saving_meshes(stack, place, ids=[2, 5]))
        with pytest.raises(OutputExistsError):
            drain(saving_meshes(stack, place, ids=[9]))
        work = saving_meshes(stack, place, ids=[9], format="obj", overwrite=True)
        next(work)
        work.close()  # those that are there stay until the new ones are whole
        assert {p.name for p in place.glob("*.ply")} == {"cell_2.ply", "cell_5.ply"}
        drain(saving_meshes(stack, place, ids=[9], format="obj", overwrite=True))
        assert {p.name for p in place.iterdir()} == {"cell_9.obj", "meshes.json"}
        assert [p.name for p in tmp_path.iterdir()] == ["m"]

    @pytest.mark.parametrize("name", ["thesis.txt", "cell_1.ply.bak", "cell_x.ply"])
    def test_a_folder_of_anything_else_never_is(
        self, tmp_path: Path, stack: Stack, name: str
    ) -> None:
        place = drain(saving_meshes(stack, tmp_path / "m"))
        (place / name).write_text("mine")
        with pytest.raises(FileExistsError, match="isn't a folder of meshes"):
            drain(saving_meshes(stack, place, overwrite=True))
        assert (place / name).read_text() == "mine"
        (tmp_path / "file").write_text("mine")
        with pytest.raises(FileExistsError, match="isn't a folder of meshes"):
            drain(saving_meshes(stack, tmp_path / "file", overwrite=True))

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no colons in names")
    def test_beside_cells_for_neuroglancer(self, tmp_path: Path) -> None:
        cells, place = _two_bricks(), tmp_path / "a.precomputed"
        drain(saving_meshes(cells, place, format="neuroglancer", ids=[5]))
        before = json.loads((place / "info").read_text())
        with pytest.raises(OutputExistsError):
            drain(saving_meshes(cells, place, format="neuroglancer"))
        again = saving_meshes(cells, place, format="neuroglancer", overwrite=True)
        drain(again)
        assert len(list((place / "mesh").glob("*.fragment"))) == 2
        assert json.loads((place / "info").read_text()) == before


@pytest.mark.parametrize("format", ["ply", "neuroglancer"])
def test_values_that_are_no_ids_are_refused(
    tmp_path: Path,
    stack: Stack,
    format: MeshFormat,  # noqa: A002
) -> None:
    """Such as probabilities; ids that a program has kept as floats are taken."""
    whole = Stack(np.asarray(stack.data).astype(np.float32), voxel_size_nm=SIZE)
    halves = Stack(np.asarray(whole.data) * 0.75, voxel_size_nm=SIZE)
    with pytest.raises(ValueError, match="ids of cells must be whole numbers, got"):
        drain(saving_meshes(halves, tmp_path / "m", format=format))
    assert not (tmp_path / "m").exists()
    if format == "ply":
        drain(saving_meshes(whole, tmp_path / "m", format=format))
        assert list((tmp_path / "m").glob("*.ply"))


def test_stopping_leaves_nothing(tmp_path: Path, stack: Stack) -> None:
    work = saving_meshes(stack, tmp_path / "a")
    for _ in range(4):  # three sections and a mesh
        next(work)
    assert {p.suffix for p in tmp_path.iterdir()} == {".part", ".emseg-lock"}
    work.close()
    assert list(tmp_path.iterdir()) == []


def _two_bricks() -> Stack:
    """Cell 5: 3 × 4 × 6 voxels at (1, 2, 3); cell 2**40 + 1: one voxel."""
    cells = np.zeros((6, 9, 12), np.uint64)
    cells[1:4, 2:6, 3:9] = 5
    cells[5, 8, 11] = 2**40 + 1
    return Stack(cells, voxel_size_nm=SIZE, name="two")


def _fragment(folder: Path, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a surface as Neuroglancer's page on the format describes it."""
    (name,) = json.loads((folder / "mesh" / f"{cell}:0").read_text())["fragments"]
    data = (folder / "mesh" / name).read_bytes()
    n = int(np.frombuffer(data, "<u4", 1)[0])
    points = np.frombuffer(data, "<f4", 3 * n, 4).reshape(n, 3)
    return points, np.frombuffer(data, "<u4", offset=4 + 12 * n).reshape(-1, 3)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no colons in names")
class TestNeuroglancer:
    def test_surfaces_lie_in_their_voxels(self, tmp_path: Path) -> None:
        place = tmp_path / "a.precomputed"
        assert (
            drain(saving_meshes(_two_bricks(), place, format="neuroglancer")) == place
        )
        info = json.loads((place / "info").read_text())
        assert (info["mesh"], info["segment_properties"]) == (
            "mesh",
            "segment_properties",
        )
        assert info["scales"][0]["size"] == [12, 9, 6]
        notes = json.loads((place / "mesh" / "info").read_text())
        assert notes == {"@type": "neuroglancer_legacy_mesh"}
        points, triangles = _fragment(place, 5)
        # voxels 3 to 8 of 4 nm reach from 12 to 36 nm, and so on
        np.testing.assert_allclose(points.min(axis=0), (12, 10, 50))
        np.testing.assert_allclose(points.max(axis=0), (36, 30, 200))
        assert triangles.max() == len(points) - 1
        a, b, c = (points[triangles[:, k]].astype(float) for k in range(3))
        assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() > 0  # seen from outside
        assert len(_fragment(place, 2**40 + 1)[1]) == 8  # of one voxel: an octahedron

    def test_properties_are_sizes_and_sections(self, tmp_path: Path) -> None:
        place = drain(
            saving_meshes(_two_bricks(), tmp_path / "a", format="neuroglancer")
        )
        said = json.loads((place / "segment_properties" / "info").read_text())
        assert said["@type"] == "neuroglancer_segment_properties"
        assert said["inline"]["ids"] == ["5", str(2**40 + 1)]
        columns = {each["id"]: each["values"] for each in said["inline"]["properties"]}
        assert columns == {"voxels": [72, 1], "sections": [3, 1]}

    def test_into_the_cells_that_are_there(self, tmp_path: Path) -> None:
        place = save_stack(tmp_path / "a.precomputed", _two_bricks())
        before = {p.name for p in place.iterdir()}
        (place / "mesh").mkdir()  # of a run that was killed: the notes don't name it
        drain(saving_meshes(_two_bricks(), place, ids=[5], format="neuroglancer"))
        added = {"mesh", "segment_properties"}
        assert {p.name for p in place.iterdir()} == before | added
        assert len(list((place / "mesh").glob("*.fragment"))) == 1
        with pytest.raises(OutputExistsError, match="mesh exists already"):
            drain(saving_meshes(_two_bricks(), place, format="neuroglancer"))

    def test_not_into_others(self, tmp_path: Path) -> None:
        other = Stack(np.ones((2, 3, 4), np.uint32), voxel_size_nm=SIZE)
        place = save_stack(tmp_path / "a.precomputed", other)
        with pytest.raises(ValueError, match=r"holds other cells: \[4, 3, 2\] voxels"):
            drain(saving_meshes(_two_bricks(), place, format="neuroglancer"))
        (tmp_path / "b").mkdir()
        for text in (None, "{", "[]", '{"scales": []}', "[" * 9000):
            if text is not None:
                (tmp_path / "b" / "info").write_text(text)
            with pytest.raises(ValueError, match="holds no cells in Neurogl"):
                drain(
                    saving_meshes(_two_bricks(), tmp_path / "b", format="neuroglancer")
                )
        assert {p.name for p in (tmp_path / "b").iterdir()} == {"info"}

    def test_cloudvolume_reads_them(self, tmp_path: Path) -> None:
        cloudvolume = pytest.importorskip("cloudvolume", reason="needs cloud-volume")
        place = drain(
            saving_meshes(_two_bricks(), tmp_path / "a", format="neuroglancer")
        )
        volume = cloudvolume.CloudVolume(
            f"precomputed://file://{place}", progress=False
        )
        mesh = volume.mesh.get(5)
        mesh = mesh[5] if isinstance(mesh, dict) else mesh
        np.testing.assert_allclose(mesh.vertices.min(axis=0), (12, 10, 50))
        np.testing.assert_allclose(mesh.vertices.max(axis=0), (36, 30, 200))
        expected = _two_bricks().data.transpose(2, 1, 0)
        np.testing.assert_array_equal(np.asarray(volume[:])[..., 0], expected)
