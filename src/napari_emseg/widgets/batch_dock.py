"""Batch: what was learned on a few sections runs over everything, unattended."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtWidgets import QFileDialog, QLineEdit, QWidget

from napari_emseg._napari import layer_of, placement_of, stack_of
from napari_emseg._napari.layers import place
from napari_emseg.batch import read_recipe, recipe_of, write_recipe
from napari_emseg.batch.inputs import open_input
from napari_emseg.batch.queue import Entry, is_unfinished
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.io.formats import SUFFIXES
from napari_emseg.segmentation.edge_classifier import save_edges
from napari_emseg.session.project_sync import ProjectSync
from napari_emseg.widgets.batch_controller import batch_controller_for
from napari_emseg.widgets.batch_form import BatchFoot, BatchForm
from napari_emseg.widgets.batch_table import BatchTable, format_row
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.theme import (
    ScrollBox,
    button,
    follow,
    follow_theme,
    help_link,
    panel_layout,
    text_label,
)


def show_results(viewer: Viewer, entry: Entry) -> list[Layer]:
    """Show the results of an entry over its source; what is there is shown again.

    Raises
    ------
    ValueError
        If there are none.
    OSError
        If source or results can't be read.
    """
    row = entry.row
    if not row.outputs:
        why = "; ".join(row.warnings) or f"it is {row.state}"
        msg = f"{row.name} has no results: {why}"
        raise ValueError(msg)
    source = _source_layer(viewer, entry)
    if source is None:
        source = viewer.add_layer(_made(open_input(entry.given).stack))
        entry.key = str(source.unique_id)
    shown = [
        _result_layer(viewer, str(path), source)
        for path in row.outputs
        if path.parent.is_dir() and _is_shown(path.name)
    ]
    viewer.layers.selection.active = shown[-1]
    return shown


def _is_shown(name: str) -> bool:
    """Tell a result from its table, and from copies for other programs."""
    stem, _, suffix = name.rpartition(".")
    return suffix != "csv" and stem.endswith(("-membranes", "-cells"))


def _source_layer(viewer: Viewer, entry: Entry) -> Layer | None:
    """Return the layer of the source, if it is still there."""
    given = entry.given
    for layer in viewer.layers:
        if str(layer.unique_id) == entry.key:
            return layer
        if isinstance(layer, Image) and given.path and _path(layer) == given.path:
            return layer
    return None


def _result_layer(viewer: Viewer, path: str, source: Layer) -> Layer:
    there = [layer for layer in viewer.layers if _path(layer) == path]
    layer = there[0] if there else viewer.add_layer(_made(open_stack(path)))
    layer.visible = True
    if layer.data.shape == _shape(source):
        place(layer, placement_of(source))
    if isinstance(layer, Image):
        layer.blending, layer.opacity = "additive", 0.5
    return layer


def _made(stack: Any) -> Layer:
    return Layer.create(*layer_of(stack))


def _path(layer: Layer) -> str | None:
    try:
        return stack_of(layer).source
    except ValueError:
        return None


def _shape(layer: Layer) -> tuple[int, ...]:
    return tuple(stack_of(layer).shape)


NO_ROW = "Add inputs, or drop files here. Double-click a finished one to see it."
RECIPES = "Recipes (*.json)"
RESULTS = "emseg-results"
"""Folder that is proposed, beside the first input."""


class BatchPanel(QWidget):
    """A table of inputs, what is done with them, and how it goes."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._batching = batch_controller_for(napari_viewer)
        self._board = self._batching.board
        self.files = button("Files…", tooltip="TIFF, MRC, HDF5, OME-Zarr and others.")
        self.folder = button(
            "Folder…",
            tooltip="A stack, each file a section; or a folder of stacks or projects.",
        )
        self.layers = button("Layers", tooltip="The layers that are selected.")
        self.project = button("Project", tooltip="The project that is open.")
        self.typed = QLineEdit()
        self.typed.setPlaceholderText("or type a path, glob or URL, and press Enter")
        self.remove = button("Remove", tooltip="Take the chosen rows away.")
        self.retry = button("Retry failed", tooltip="Do only what failed once more.")
        self.table = BatchTable(self._controller.viewer)
        self.open_recipe = button(
            "Open recipe…", tooltip="Set model, settings and stages as a recipe says."
        )
        self.save_recipe = button(
            "Save recipe…",
            tooltip="Model, settings and stages in one small file, to run elsewhere: "
            "here, or by emseg batch --recipe.",
        )
        self.about = text_label()
        self.form = BatchForm(self._controller.session, self._batching)
        self.foot = BatchFoot(self._batching)
        self._lay_out()
        self._connect()
        self._on_listed()

    def _lay_out(self) -> None:
        layout = panel_layout(self)
        layout.addWidget(FlowRow(self.files, self.folder, self.layers, self.project))
        layout.addWidget(self.typed)
        layout.addWidget(self.table)
        layout.addWidget(FlowRow(self.remove, self.retry))
        layout.addWidget(self.about)
        layout.addWidget(self.form)
        layout.addWidget(FlowRow(self.open_recipe, self.save_recipe))
        self.foot.stick_in(layout)
        layout.addWidget(help_link("batch.md#in-napari"))

    def _connect(self) -> None:
        self.files.clicked.connect(self._on_files)
        self.folder.clicked.connect(self._on_folder)
        self.layers.clicked.connect(self.add_layers)
        self.project.clicked.connect(self.add_project)
        self.open_recipe.clicked.connect(self._on_open_recipe)
        self.save_recipe.clicked.connect(self._on_save_recipe)
        self.remove.clicked.connect(self._on_remove)
        self.retry.clicked.connect(lambda: self._try(lambda: self._start(retry=True)))
        self.typed.returnPressed.connect(self._on_typed)
        self.table.dropped.connect(self.add_paths)
        self.table.asked.connect(self._on_asked)
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.form.edited.connect(self._on_state)
        self.foot.start.connect(lambda: self._try(self._start))
        self.foot.dry_run.connect(
            lambda: self._try(lambda: self._batching.dry_run(self.form.job()))
        )
        follow(self, self._batching.rows_changed, self._on_rows)
        follow(self, self._batching.listed, self._on_listed)
        follow(self, self._batching.changed, self._on_state)

    def add_paths(self, paths: Sequence[str]) -> None:
        """Add files, folders, Zarrs, projects, globs, URLs."""
        self._try(lambda: self._board.add_paths(paths))
        self._propose()

    def add_layers(self) -> None:
        """Add the selected layers: by their project, their file, or as they are."""
        self._try(self._add_layers)
        self._propose()

    def add_project(self) -> None:
        """Add the projects that are open; their hand work counts."""
        self._try(self._add_projects)
        self._propose()

    def take_recipe(self, path: Path) -> None:
        """Set what a recipe says; its project becomes an input if it is here."""
        said = [f"set as {path.name} says"]

        def take() -> None:
            opened = read_recipe(path)
            self.form.use_recipe(opened)
            project = opened.project
            given = [Path(entry.given.path) for entry in self._board.entries]
            if project is None and opened.recipe.project:
                said.append(
                    f"its project {opened.recipe.project} isn't there: if its "
                    "corrections are to count, add it with “Folder…”"
                )
            if project is not None and project not in given:
                self._board.add_paths([str(project)])

        if self._try(take):
            self._propose()
            self._batching.tell("; ".join(said))

    def write_recipe(self, path: Path, *, overwrite: bool = True) -> None:
        """Write what is set here, and in the panels, as a recipe."""

        def write() -> None:
            weights, settings = self._controller.session.weights, self.form.settings
            made = recipe_of(
                *(settings, weights, self._project()),
                folder=path.parent,
                edges=self._saved_edges(path),
            )
            write_recipe(path, made, overwrite=overwrite)

        if self._try(write):
            self._batching.tell(f"saved as {path.name}")

    def _saved_edges(self, recipe: Path) -> Path | None:
        """Save the classifier of edges in use, if there is one, beside a recipe."""
        edges = self._controller.session.edges
        if edges is None or self.form.settings.cells.through == "sections":
            return None
        return save_edges(edges, recipe.with_name(f"{recipe.stem}-edges.json"))

    def _project(self) -> Path | None:
        """Return the project whose hand work belongs to what is done here."""
        listed = [e.given.path for e in self._board.entries if e.given.is_project]
        if len(listed) == 1:
            return Path(listed[0])
        opened = self._controller.session.project
        return None if listed or opened is None else opened.path

    def _try(self, action: Callable[[], object]) -> bool:
        """Do what was asked for, or say why it can't be done; tell if it was."""
        why: Exception | None = None
        try:
            action()
        except (OSError, ValueError) as e:
            why = e
        self._on_listed()
        self._batching.refuse(why)
        return why is None

    def _add_layers(self) -> None:
        selected = self._controller.viewer.layers.selection
        layers = [x for x in self._controller.viewer.layers if x in selected]
        if not layers:
            msg = "no layer is selected; select some in the list of layers"
            raise ValueError(msg)
        for layer in layers:
            key = str(layer.unique_id)
            keeping = self._keepings.get(key)
            if keeping is not None:
                self._board.add_project(keeping.path, key)
            else:
                self._board.add_stack(image_of(layer), key)

    def _add_projects(self) -> None:
        if not self._keepings:
            msg = "no project is open; open one in 1 Data, or add its folder"
            raise ValueError(msg)
        for key, keeping in self._keepings.items():
            self._board.add_project(keeping.path, key)

    @property
    def _keepings(self) -> Mapping[str, ProjectSync]:
        """Of the open projects, by their layers."""
        return self._controller.session.projects

    def _propose(self) -> None:
        """Propose a folder of results beside the first input that is a file."""
        for entry in self._board.entries:
            path = entry.given.path
            if path and "://" not in path:
                self.form.propose(Path(path).absolute().parent / RESULTS)
                return

    def _start(self, *, retry: bool = False) -> None:
        for keeping in self._keepings.values():
            keeping.flush()
        self._batching.start(self.form.job(), retry=retry)

    def _on_files(self) -> None:
        endings = " ".join(f"*{suffix}" for suffix in SUFFIXES)
        chosen, _ = QFileDialog.getOpenFileNames(
            self, "Inputs", "", f"EM stacks ({endings});;All files (*)"
        )
        if chosen:
            self.add_paths(chosen)

    def _on_open_recipe(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Open recipe", "", RECIPES)
        if chosen:
            self.take_recipe(Path(chosen))

    def _on_save_recipe(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save recipe", "recipe.json", RECIPES
        )
        if name:
            path = Path(name)
            # the dialog has asked about the name that was typed, and about no other
            asked = path.suffix.lower() == ".json"
            if not asked:
                path = path.with_name(f"{path.name}.json")
            self.write_recipe(path, overwrite=asked)

    def _on_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder of sections or stacks")
        if chosen:
            self.add_paths([chosen])

    def _on_typed(self) -> None:
        word = self.typed.text().strip()
        if word:
            self.add_paths([word])
            if not self._batching.error:
                self.typed.clear()

    def _on_remove(self) -> None:
        self._try(lambda: self._board.remove(self.table.chosen))
        self.table.clearSelection()

    def _on_asked(self, nth: int) -> None:
        self._try(
            lambda: show_results(self._controller.viewer, self._board.entries[nth])
        )

    def _on_rows(self, nths: list[int]) -> None:
        for nth in nths:
            self.table.show_row(nth, self._board.entries[nth].row)
        self._on_selected()

    def _on_listed(self) -> None:
        self.table.show_rows([entry.row for entry in self._board.entries])
        self._on_selected()
        self._on_state()

    def _on_selected(self) -> None:
        chosen = self.table.chosen
        row = self._board.entries[chosen[0]].row if len(chosen) == 1 else None
        self.about.setText(NO_ROW if row is None else format_row(row))
        self.remove.setEnabled(bool(chosen))

    def _on_state(self) -> None:
        busy, out = self._batching.busy, self.form.out
        self.retry.setEnabled(not busy and bool(self._board.failed))
        replace = self.form.replace.isChecked()
        resume = out is not None and not replace and is_unfinished(out)
        self.foot.call("Resume" if resume else "Start")


def image_of(layer: Layer) -> Stack:
    """Take an image layer as a stack.

    Raises
    ------
    ValueError
        If it is another kind of layer.
    """
    if isinstance(layer, Labels):
        msg = f"{layer.name} is a labels layer; a batch takes images"
        raise ValueError(msg)
    return stack_of(layer)


class BatchDock(ScrollBox):
    """The dock Batch."""

    beside = True

    def __init__(self, napari_viewer: Viewer) -> None:
        self.panel = BatchPanel(napari_viewer)
        super().__init__(self.panel)
        follow_theme(self, controller_for(napari_viewer).viewer)
