"""Meshes from 3 Cells: progress, Cancel, and refusals in words."""

from __future__ import annotations

import json
from pathlib import Path

import meshio
import pytest

from napari_emseg.core.records import drain
from napari_emseg.segmentation.meshes import finding_boxes
from napari_emseg.widgets.save_row import cells_choices


@pytest.fixture
def linked(open_window, em):
    """A window whose stack has cells that are linked."""
    window = open_window(em())
    session = window.controller.session
    session.cell_settings = session.cell_settings.model_copy(update={"link": True})
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        assert window.run(panel).error is None
    return window


def _meshes(name: str):
    return next(c for c in cells_choices() if c.words.startswith(f"Meshes, {name}"))


@pytest.mark.parametrize("name", ["PLY", "STL"])
def test_the_largest_cells_are_saved(linked, tmp_path: Path, name: str) -> None:
    row, cells = linked.cells.saving, linked.controller.session.source.results.cells
    with linked.qtbot.waitSignal(row.job.ended, timeout=120_000):
        row.save_as(tmp_path / "em-cells", _meshes(name))
        assert row.save.text() == "Cancel"
        assert row.bar.isVisibleTo(row)
    assert row.message.text() == "saved as em-cells"
    assert row.save.text() == "Save…"
    assert row.bar.isHidden()
    boxes = drain(finding_boxes(cells))
    files = sorted((tmp_path / "em-cells").glob(f"*.{name.lower()}"))
    assert {int(f.stem.partition("_")[2]) for f in files} == set(boxes)
    assert len(meshio.read(files[0]).points) > 8
    told = json.loads((tmp_path / "em-cells" / "meshes.json").read_text())
    assert told["voxel_size_nm"] == [50, 4, 4]
    row.save_as(tmp_path / "em-cells", _meshes(name))
    assert row.job.busy
    with linked.qtbot.waitSignal(row.job.ended, timeout=120_000):
        pass
    assert row.message.text().endswith("exists already; choose another name")


def test_cancel_leaves_nothing(linked, tmp_path: Path) -> None:
    row = linked.cells.saving
    with linked.qtbot.waitSignal(row.job.ended, timeout=120_000):
        row.save_as(tmp_path / "m", _meshes("OBJ"))
        linked.click(row.save)
    assert row.message.text() == "cancelled"
    assert row.save.text() == "Save…"
    assert not list(tmp_path.glob("m*"))


def test_cells_that_are_not_linked_make_no_meshes(open_window, em, tmp_path) -> None:
    window = open_window(em())
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        assert window.run(panel).error is None
    window.cells.saving.save_as(tmp_path / "m", _meshes("PLY"))
    assert "aren't linked" in window.cells.saving.message.text()
    assert not list(tmp_path.glob("m*"))


def test_neuroglancers_come_with_the_cells(linked, tmp_path: Path) -> None:
    row = linked.cells.saving
    (choice,) = (c for c in cells_choices() if c.words.startswith("Meshes for Neuro"))
    assert choice.suffixes == (".precomputed",)
    with linked.qtbot.waitSignal(row.job.ended, timeout=120_000):
        row.save_as(tmp_path / "m.precomputed", choice)
    assert row.message.text() == "saved as m.precomputed"
    info = json.loads((tmp_path / "m.precomputed" / "info").read_text())
    assert info["type"] == "segmentation"
    assert list((tmp_path / "m.precomputed" / info["mesh"]).glob("*.fragment"))
