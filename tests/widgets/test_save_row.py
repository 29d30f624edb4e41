"""Save… in the panels: formats, ids that don't fit, and refusals in words."""

from __future__ import annotations

import csv

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from thin import thin_weights

from napari_emseg.io import open_stack
from napari_emseg.proofreading import paint
from napari_emseg.widgets.save_row import cells_choices, picture_choices


@pytest.fixture
def window(open_window, em):
    """A window whose stack has membranes and cells."""
    window = open_window(em())
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        assert window.run(panel).error is None
    return window


def _choice(choices, beginning):
    return next(each for each in choices if each.words.startswith(beginning))


def _save(window, row, path, choice) -> str:
    with window.qtbot.waitSignal(row.job.ended, timeout=120_000):
        row.save_as(path, choice)
    return row.message.text()


def test_classes_of_ones_own_are_shown_and_saved(open_window, em, tmp_path) -> None:
    window = open_window(em(translate=(100, 30, -20)))
    panel = window.membranes
    choices, row = picture_choices(), panel.saving
    window.choose_scope(panel, "all sections")
    assert window.run(panel).error is None
    assert not row.what.isVisibleTo(panel)
    taught = thin_weights(tmp_path, "taught", further=("mitochondria", "vesicles"))
    window.controller.session.choose_weights(taught)
    assert window.run(panel).error is None
    layer, other = (
        window.layer(f"em {n} probability") for n in ("mitochondria", "vesicles")
    )
    assert layer.data.max() > other.data.max() > 0
    assert layer.colormap != other.colormap
    source = window.layer("em")
    for name in ("scale", "translate", "units"):
        np.testing.assert_array_equal(getattr(layer, name), getattr(source, name))
    assert layer.metadata["emseg"]["kind"] == "class mitochondria"
    assert layer.metadata["emseg"]["weights"] == "taught"
    assert layer not in window.controller.sources()
    assert row.what.isVisibleTo(panel)
    row.what.setCurrentText("mitochondria")
    said = _save(window, row, tmp_path / "m", _choice(choices, "MRC"))
    assert said == "saved as m.mrc"
    with mrcfile.open(tmp_path / "m.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data[:, ::-1], layer.data)


def test_what_the_window_reads_is_not_replaced(
    open_window, drawn_stack, tmp_path
) -> None:
    stack, truth = drawn_stack
    em = np.asarray(stack.data[:2])
    tifffile.imwrite(tmp_path / "em.tif", em)
    tifffile.imwrite(tmp_path / "truth.tif", np.asarray(truth.data[:2]))
    (tmp_path / "sections").mkdir()
    for z, section in enumerate(em):
        tifffile.imwrite(tmp_path / "sections" / f"{z}.tif", section)
    window = open_window()
    for name in ("em.tif", "truth.tif", "sections"):
        window.controller.add(open_stack(tmp_path / name))
    assert window.run(window.membranes).error is None
    row = window.membranes.saving
    for replaced in ("em.tif", "truth.tif", "sections/1.tif"):
        path = tmp_path / replaced
        before = path.read_bytes()
        row.save_as(path, picture_choices()[0])
        assert not row.job.busy
        assert "is the input" in row.message.text(), replaced
        assert path.read_bytes() == before
        row._say("", "hint")
    said = _save(window, row, tmp_path / "other.tif", picture_choices()[0])
    assert said == "saved as other.tif"


def test_membranes_and_cells(window, tmp_path) -> None:
    row, choices = window.membranes.saving, picture_choices()
    probability = window.layer("em membrane probability").data
    said = _save(window, row, tmp_path / "p", _choice(choices, "MRC"))
    assert said == "saved as p.mrc"
    with mrcfile.open(tmp_path / "p.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data[:, ::-1], probability)
    small = next(
        c for c in choices if c.words.startswith("HDF5") and "8 bit" in c.words
    )
    _save(window, row, tmp_path / "p.h5", small)
    with h5py.File(tmp_path / "p.h5") as file:
        expected = np.rint(np.asarray(probability) * 255)
        np.testing.assert_array_equal(file["membrane"][()], expected)

    row, cells = window.cells.saving, window.layer("em cells").data
    _save(window, row, tmp_path / "c.tif", _choice(cells_choices(), "ImageJ"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "c.tif"), cells)
    both = next(c for c in cells_choices() if "with the EM" in c.words)
    _save(window, row, tmp_path / "both", both)
    labels = open_stack(tmp_path / "both.zarr", dataset="labels/cells")
    np.testing.assert_array_equal(labels.data[:], cells)
    _save(window, row, tmp_path / "c", cells_choices()[-1])
    with (tmp_path / "c.csv").open() as file:
        ids = {int(line["cell"]) for line in csv.DictReader(file)}
    assert ids == set(np.unique(cells).tolist()) - {0}


def test_ids_that_do_not_fit_ask(window, tmp_path) -> None:
    row = window.cells.saving
    cells = window.controller.session.source.results.cells
    cells[cells == cells.max()] = 70_000
    said = _save(window, row, tmp_path / "c", _choice(cells_choices(), "ImageJ"))
    assert "65,535" in said
    assert not (tmp_path / "c.tif").exists()
    assert not row.renumber.isHidden()
    assert not row.as_float.isHidden()
    with window.qtbot.waitSignal(row.job.ended, timeout=120_000):
        window.click(row.renumber)
    assert row.message.text() == "saved as c.tif"
    assert row.renumber.isHidden()
    assert tifffile.imread(tmp_path / "c.tif").max() == len(np.unique(cells)) - 1


def test_nothing_to_save_is_said(open_window, em, tmp_path) -> None:
    window = open_window(em())
    window.settle()
    window.cells.saving.save_as(tmp_path / "c", cells_choices()[0])
    assert "no cells yet" in window.cells.saving.message.text()
    window.membranes.saving.save_as(tmp_path / "p", picture_choices()[0])
    assert "no membranes yet" in window.membranes.saving.message.text()
    assert list(tmp_path.glob("[cp].*")) == []


def test_a_training_set_from_panel_4(open_window, em, tmp_path) -> None:
    window = open_window(em())
    window.settle()
    pairs = window.dock.panel("Correct").pairs
    with window.qtbot.waitSignal(pairs.job.ended, timeout=120_000):
        pairs.export_to(tmp_path / "set")
    assert "nothing is corrected" in pairs.message.text()
    editor = window.controller.session.correcting()
    square = slice(5, 9), slice(5, 9)
    drawn = np.ones((4, 4), bool)
    editor.do(paint(editor.sheet(1), "corrections", drawn, square, 2))
    with window.qtbot.waitSignal(pairs.job.ended, timeout=120_000):
        pairs.export_to(tmp_path / "set")
    assert pairs.message.text() == "saved in set"
    labels = tifffile.imread(tmp_path / "set" / "labels" / "z00001.tif")
    assert np.count_nonzero(labels) == 16
