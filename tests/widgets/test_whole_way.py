"""The whole way in one shown window: what each supported version of napari must do."""

from __future__ import annotations

import numpy as np

from napari_emseg.io import save_stack


def test_open_run_correct_undo_save_and_open_again(
    open_window, drawn_stack, tmp_path
) -> None:
    stack, _ = drawn_stack
    path = save_stack(tmp_path / "em.mrc", stack, voxel_size_nm=(50, 4, 4))
    window = open_window(show=True)
    (layer,) = window.viewer.open(str(path), plugin=None)
    window.choose_weights("thin")
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        assert window.run(panel).error is None
    cells = np.array(window.layer("em cells").data)
    assert cells.max() > 5
    np.testing.assert_allclose(layer.scale, (50, 4, 4))

    window.dock.folds["Correct"].expand()
    window.settle()
    layers = window.dock.panel("Correct").layers
    layers.show()
    drawn = layers.layer("corrections")
    drawn.selected_label, drawn.brush_size = 1, 7
    editor = window.controller.session.at_work.editor
    for at in (30, 50):
        drawn.paint((1, at, 40), 1)
        window.settle()
    twice = np.array(editor.linked.arrays["corrections"])
    assert twice[1, 30, 40] == twice[1, 50, 40] == 1
    editor.undo()
    window.settle()
    once = np.array(editor.linked.arrays["corrections"])
    assert (once[1, 30, 40], once[1, 50, 40]) == (1, 0)

    project = window.data.project
    project.save_path(tmp_path / "work.emseg")
    window.qtbot.waitUntil(lambda: not project.busy, timeout=120_000)
    expected = {n: np.array(editor.linked.arrays[n]) for n in ("cells", "corrections")}
    project.keeping.flush()
    window.viewer.layers.clear()
    window.settle()
    window.data.open_path(str(tmp_path / "work.emseg"))
    window.qtbot.waitUntil(
        lambda: not project.busy and "em cells" in window.viewer.layers,
        timeout=120_000,
    )
    linked = window.controller.session.at_work.editor.linked
    for name, values in expected.items():
        np.testing.assert_array_equal(linked.arrays[name], values)
