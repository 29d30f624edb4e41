from __future__ import annotations

from pathlib import Path

import napari
from napari.layers import Labels
from thin import thin_weights

from napari_emseg.cli import main


def test_the_demo_opens_napari_on_its_results(tmp_path, monkeypatch, qtbot):
    """What `emseg demo --gui` shows, up to where it would wait for the user."""
    shown = []

    def look() -> None:
        viewer = napari.current_viewer()
        shown.append([layer.name for layer in viewer.layers])
        assert isinstance(viewer.layers["cells"], Labels)
        assert not viewer.layers["membranes"].visible
        assert viewer.layers.selection.active is viewer.layers["em"]
        docks = viewer.window.dock_widgets
        assert any("EM segmentation" in name for name in docks)
        viewer.close()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(napari, "run", look)
    weights = thin_weights(tmp_path)
    assert main(["demo", "--weights", str(weights.path), "--gui"]) == 0
    assert shown == [["em", "membranes", "cells"]]
    assert Path("demo-output/cells.tif").is_file()


def test_without_a_window_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("napari_emseg.cli.doctor.QT_BINDINGS", ())
    assert main(["demo", "--gui"]) == 2
    assert 'pip install "napari-emseg[all]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
