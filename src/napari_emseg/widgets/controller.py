"""What the panels of one viewer share: its session, its job, its result layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import numpy as np
from napari import Viewer
from napari.layers import Image, Layer
from napari.utils.notifications import show_error, show_info, show_warning
from numpy.typing import NDArray
from psygnal import Signal

from napari_emseg._napari import (
    NAPARIS,
    is_in_pixels,
    layer_of,
    set_voxel_size,
    stack_of,
)
from napari_emseg._napari.layers import KEY, LIVE, PLACEMENT, RESULT, stacks_of
from napari_emseg._napari.versions import PLUGIN, preference
from napari_emseg.core.intensity import is_micrograph
from napari_emseg.core.records import Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack, VoxelSize
from napari_emseg.proofreading.edits import Name
from napari_emseg.session import Results, Run, Session, StackState
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.learning import Learning
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.session.runs import compile_cells
from napari_emseg.widgets.background import LatestOnlyWorker, niced
from napari_emseg.widgets.camera import bring_into_view, view_kept
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.layer_changes import LayerChanges, OverlayLayer
from napari_emseg.widgets.layers import ResultLayers
from napari_emseg.widgets.opening import open_with_this, recover_voxel_sizes
from napari_emseg.widgets.run_presenter import RunPresenter, Stage
from napari_emseg.widgets.training import TrainingController

LINKED: tuple[Name, ...] = ("membranes", "corrections", "cells")


class Flat:
    """The only section `(y, x)` of a stack, as `(z, y, x)`."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.shape = (1, *data.shape)
        self.dtype = np.dtype(data.dtype)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        return np.asarray(self._data)[None][key]


def take_over_data(
    layers: ResultLayers,
    editor: AnnotationEditor,
    kind: str,
    check: Callable[[int], None],
) -> None:
    """Make an edit of how replaced data differs; the layer shows the results again.

    Strokes would be painted on the other data else, and neither recorded nor saved.
    `check` is called with the largest number in corrections, to refuse it.
    """
    layer = layers.get(kind)
    name: Name | None = next((n for n in LINKED if n == kind), None)
    if layer is None or name is None:
        return
    given = layer.data
    wanted = editor.linked.arrays[name]
    flat = wanted.shape[0] == 1 and len(given.shape) == 2
    try:
        if name == "corrections":
            largest = max(int(np.max(np.asarray(section))) for section in given)
            if largest <= np.iinfo(wanted.dtype).max:  # else it says so below
                check(largest)
        edit = editor.take_over(name, Flat(given) if flat else given)
    except (OSError, ValueError) as refusal:
        layers.restore(kind)
        show_warning(f"{layer.name} was replaced, and is as before: {refusal}")
        return
    layers.restore(kind)
    if edit is not None:
        show_info(f"{edit.words}; taken over as one step, which undo takes back")
    elif given.dtype != wanted.dtype:
        show_info(f"{layer.name} stays {wanted.dtype}: that is how it is recorded")


T = TypeVar("T")

_controllers: WeakKeyDictionary[Viewer, ViewerController] = WeakKeyDictionary()


def controller_for(viewer: Viewer) -> ViewerController:
    """Return the controller of a viewer, the same one for all its panels."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins are handed a proxy
    if viewer not in _controllers:
        _controllers[viewer] = ViewerController(viewer)
    return _controllers[viewer]


class ViewerController:
    """Keeps session and viewer in step. Lives as long as the viewer.

    Signals: `sources_changed` when there are other layers to choose from; `noted` with
    what a run tells; `failed` with an error in words.
    """

    sources_changed = Signal()
    noted = Signal(str)
    failed = Signal(str)

    def __init__(self, viewer: Viewer) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        open_with_this()
        device = preference("runs", "device") or "auto"
        self.session = Session(predict_settings=PredictSettings(device=device))
        self.runs = RunFactory(self.session)
        self.changes = LayerChanges(viewer)
        self._overlays: dict[str, OverlayLayer] = {}
        self._shared: dict[Callable[[ViewerController], Any], Any] = {}
        self.job = BackgroundJob()
        self._compiler = LatestOnlyWorker()
        self._compiled: set[Callable[[], None]] = set()
        self.training = TrainingController(lambda: self.learning)
        self._running: RunPresenter | None = None
        self._results: dict[str, ResultLayers] = {}
        self._filled: dict[str, AnnotationEditor] = {}
        self._opened_with: dict[str, VoxelSize | None] = {}
        self._hidden: WeakSet[Layer] = WeakSet()
        """Layers of other stacks, until theirs is put to work again."""
        self._followed: ReferenceType[Layer] | None = None
        self._known: WeakSet[Layer] = WeakSet()
        """Layers that were at work, whose data may be replaced at any time."""
        self.job.recorded.connect(self._on_recorded)
        self.job.ended.connect(self._on_ended)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.events.renamed.connect(self._on_renamed)
        viewer.layers.events.reordered.connect(self._on_reordered)
        recover_voxel_sizes(self.viewer, self._unmade())
        for layer in self._unmade():
            if self.session.source is None:
                self.choose(layer)

    @property
    def viewer(self) -> Viewer:
        """The viewer.

        Raises
        ------
        RuntimeError
            If it is gone.
        """
        viewer = self._viewer()
        if viewer is None:
            msg = "the viewer is closed"
            raise RuntimeError(msg)
        return viewer

    @cached_property
    def learning(self) -> Learning:
        """What is learnt from corrections, and the weights that came of it."""
        return Learning(self.session)

    @property
    def stage(self) -> Stage | None:
        """Of the run that is on, or was the last one."""
        return None if self._running is None else self._running.stage

    @property
    def sections_to_run(self) -> int | None:
        """How many the run is over that is on, or was the last one."""
        return None if self._running is None else len(self._running.run.region.sections)

    def overlay(self, name: str) -> OverlayLayer:
        """Return the layer of our own for something, the same one for all panels."""
        if name not in self._overlays:
            self._overlays[name] = OverlayLayer(self.viewer, self.changes)
        return self._overlays[name]

    def shared(self, kind: Callable[[ViewerController], T]) -> T:
        """Return what there is one of in a viewer, whichever panels come and go."""
        if kind not in self._shared:
            self._shared[kind] = kind(self)
        found: T = self._shared[kind]
        return found

    def sources(self) -> list[Layer]:
        """Return image layers that could be put to work; no results of our own."""
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Image)
            and LIVE not in layer.metadata
            and not any(results.owns(layer) for results in self._results.values())
        ]

    def _unmade(self) -> list[Layer]:
        """Return layers that may be put to work unasked: none that a run has made."""
        return [layer for layer in self.sources() if RESULT not in layer.metadata]

    def stacks(self) -> list[Stack]:
        """Return what layers show, at work or not; none of our own results."""
        layers = [
            layer
            for layer in self.viewer.layers
            if not any(results.owns(layer) for results in self._results.values())
        ]
        return [*stacks_of(layers), *(s.stack for s in self.session.sources)]

    @property
    def source_layer(self) -> Layer | None:
        """The layer at work; None if there is none, or if it was removed."""
        source = self.session.source
        if source is None:
            return None
        layers = self.viewer.layers
        return next((x for x in layers if str(x.unique_id) == source.key), None)

    def results(self, key: str) -> ResultLayers | None:
        """Return the result layers of a source; None if it never had any."""
        layers = self._results.get(key)
        return layers if layers is not None and layers.begun else None

    @property
    def all_results(self) -> list[ResultLayers]:
        """The result layers of every source."""
        return list(self._results.values())

    def describe_cells(self) -> None:
        """Let the cells of the source at work say how they came to be, as files do.

        After a slider or an edit; a run says so itself at its end.
        """
        source = self.session.source
        layers = None if source is None else self.results(source.key)
        cells = None if layers is None else layers.get("cells")
        if source is None or layers is None or cells is None or self.job.busy:
            return
        # cells that came from elsewhere say nothing of a run
        if KEY in cells.metadata:
            n = len(source.results.segmented)
            made = source.cells_provenance(self.session.cell_settings, n)
            layers.describe("cells", made)

    def results_with(self, layer: Layer) -> Results | None:
        """Return the results that a layer shows; None if it is none of ours."""
        editor = self.editor_of(layer)
        return None if editor is None else editor.results

    def editor_of(self, layer: Layer) -> AnnotationEditor | None:
        """Return what edits the results that a layer shows; None if it shows none."""
        for key, layers in self._results.items():
            if layers.owns(layer):
                return self._filled[key]
        return None

    def warning_of(self, layer: Layer) -> str:
        """Say what to know of the results that a layer shows; empty if nothing."""
        editor = self.editor_of(layer)
        sources = self.session.sources
        return next((s.warning for s in sources if s.editor is editor), "")

    def choose(self, layer: Layer | None) -> None:
        """Put a layer to work, or say why it can't be."""
        self._follow(layer)
        if layer is None:
            self.session.deselect()
            return
        try:
            stack = stack_of(layer)
        except ValueError as e:
            self.session.deselect(str(e))
            return
        key = str(layer.unique_id)
        self._opened_with.setdefault(key, stack.voxel_size_nm)
        source = self.session.select(key, stack)
        if key in self._filled and self._filled[key] is not source.editor:
            # pictures of another shape: what was made from those before is theirs
            self._results.pop(key, None)
            self._filled.pop(key)
            self.sources_changed.emit()

    def show_alone(self, layer: Layer) -> None:
        """Have a stack on screen with its results, and those of other stacks hidden.

        What is seen is what tools, runs and marks work on. A picture that lies over
        the stack, of its shape and never at work, stays. Where one of the two is in
        pixels and the other in nm, the camera's place means nothing, and all is shown.
        """
        apart = False
        for other in self.sources():
            at_work = any(x.key == str(other.unique_id) for x in self.session.sources)
            same = getattr(other.data, "shape", None) == layer.data.shape
            away = other is not layer and (at_work or not same)
            seen = away and other.visible
            apart |= seen and is_in_pixels(other) != is_in_pixels(layer)
            for each in self._with_results(other):
                if away and each.visible:
                    each.visible = False
                    self._hidden.add(each)
                elif not away and each in self._hidden:
                    each.visible = True
                    self._hidden.discard(each)
        layer.visible = True
        bring_into_view(self.viewer, layer, fit=apart)

    def _with_results(self, layer: Layer) -> list[Layer]:
        results = self._results.get(str(layer.unique_id))
        made = () if results is None else filter(results.owns, self.viewer.layers)
        return [layer, *made]

    def add(self, stack: Stack) -> None:
        """Show an opened stack in a layer, and put it to work if it is an image."""
        layer = Layer.create(*layer_of(stack))
        self.viewer.add_layer(layer)
        if isinstance(layer, Image):
            self.choose(layer)
            self.show_alone(layer)

    def set_voxel_size(self, voxel_size_nm: VoxelSize | None) -> None:
        """Give the stack at work another voxel size; None: what it was opened with.

        Raises
        ------
        ValueError
            If it is not three numbers above 0.
        """
        layer = self.source_layer
        if layer is None:
            return
        key = str(layer.unique_id)
        with view_kept(self.viewer, layer):
            set_voxel_size(layer, voxel_size_nm or self._opened_with.get(key))
            if key in self._results:
                self._results[key].align(layer)

    def start(self, run: Run, stage: Stage, *, said: str = "") -> None:
        """Run a stage; its results are shown while they are made.

        Parameters
        ----------
        said
            What a panel says of it already: notes don't repeat that.

        Raises
        ------
        ValueError
            If the stack's layer was removed.
        RuntimeError
            If a run is on already.
        """
        layer = self.source_layer
        if layer is None:
            msg = "the layer of the stack is gone; choose another one in 1 Data"
            raise ValueError(msg)
        if self.job.busy:
            msg = f"{self.job.title} is still running; cancel it or wait for its end"
            raise RuntimeError(msg)
        layers = self._layers_of(run.source, layer)
        layers.align(layer)
        self._running = RunPresenter(run, stage, layers, self.job, said=said)
        self.job.start(self._running.work, run.title)

    def show_results(self) -> None:
        """Have layers for what is known of the stack at work, such as by a project."""
        source, layer = self.session.source, self.source_layer
        if source is None or layer is None:
            return
        results = source.results
        if (
            results.segmented
            or results.predicted
            or source.editor.history.corrections()
        ):
            kept = ("membranes", "corrections", "cells")
            arrays = {kind: getattr(results, kind) for kind in kept}
            self._layers_of(source, layer).show_now(arrays)

    def _layers_of(self, source: StackState, layer: Layer) -> ResultLayers:
        """Return the result layers of a source, made if there are none."""
        if source.key not in self._results:
            layers = ResultLayers(self.viewer, layer, self.changes)
            layers.replaced.connect(partial(self._on_replaced, source.key))
            self._results[source.key] = layers
        self._filled[source.key] = source.editor
        return self._results[source.key]

    def compile_soon(self, kernels: Callable[[], None]) -> None:
        """Compile what will be wanted, while nobody waits for it.

        Once for each window: it is quick afterwards, and where numba kept it on disk.
        """
        if kernels not in self._compiled:
            self._compiled.add(kernels)
            self._compiler.ask(niced(kernels))

    def _on_replaced(self, key: str, kind: str) -> None:
        """Take over what another program has put in a layer; the layer stays ours."""
        layers, editor = self._results.get(key), self._filled.get(key)
        if layers is not None and editor is not None:
            check = self.learning.material.check_code
            take_over_data(layers, editor, kind, check)

    def _on_recorded(self, records: list[Record]) -> None:
        if self._running is not None:
            for note in self._running.on_records(records):
                self.noted.emit(note)

    def _on_ended(self, outcome: JobResult) -> None:
        """Tell of an error, and forget results whose source was removed meanwhile."""
        if self._running is None:
            return
        there = {str(layer.unique_id) for layer in self.viewer.layers}
        stays = self._running.run.source.key in there and not outcome.closing
        message = self._running.on_end(outcome, shown=stays)
        if self.stage == "membranes" and outcome.error is None:
            self.compile_soon(compile_cells)  # that is what comes next
        project = self.session.projects.get(self._running.run.source.key)
        if project is not None and not project.read_only:
            project.tell_runs()  # also of a run that was cancelled
        if message:
            self.failed.emit(message)
        if self._running.run.source.key not in there:
            self._drop_results(self._running.run.source.key)
            self.sources_changed.emit()

    def _drop_results(self, key: str) -> None:
        layers = self._results.pop(key, None)
        if layers is not None:
            layers.let_go()

    def _on_inserted(self, event: Any) -> None:
        layer = event.value
        if layer in self._unmade():
            recover_voxel_sizes(self.viewer, [layer])
            if self.session.source is None:
                self.choose(layer)
            elif self._comes_to_work(layer):
                self.choose(layer)
                self.changes.do(partial(self._show_if_at_work, layer))
        self.sources_changed.emit()

    def _comes_to_work(self, layer: Layer) -> bool:
        """Tell if a layer was opened from a file, as a stack of its own.

        A picture of the shape of the stack at work belongs to that one, such as a
        ground truth, and lies over it; unless it is a micrograph, too.
        """
        at_work = self.source_layer
        opened = layer.source.reader_plugin in (PLUGIN, *NAPARIS)
        if not opened or layer.source.path is None or not stacks_of([layer]):
            return False
        if at_work is None or layer.data.shape != at_work.data.shape:
            return True
        if KEY in layer.metadata or not is_micrograph(stack_of(layer)):
            return False
        show_info(
            f"{layer.name} is at work; {at_work.name} is hidden until it is chosen in "
            "1 Data"
        )
        return True

    def _show_if_at_work(self, layer: Layer) -> None:
        if layer is self.source_layer:
            self.show_alone(layer)

    def _on_removed(self, event: Any) -> None:
        source = self.session.source
        key = str(event.value.unique_id)
        try:
            self.session.forget(key)
        except OSError as e:
            show_error(f"the project of {event.value.name} was not saved: {e}")
        running = self._running if self.job.busy else None
        if running is None or running.run.source.key != key:
            self._drop_results(key)
        if source is not None and source.key == key:
            layer = next(iter(self._unmade()), None)
            self.choose(layer)
            if layer is not None:
                self.changes.do(partial(self._show_if_at_work, layer))
        self.sources_changed.emit()

    def _on_reordered(self) -> None:
        self.changes.wait()
        self.sources_changed.emit()

    def _on_renamed(self) -> None:
        self.changes.wait()
        self._on_source_changed()
        self.sources_changed.emit()

    def _follow(self, layer: Layer | None) -> None:
        """Listen to the layer at work, and no more to the one before."""
        before = self._followed() if self._followed is not None else None
        if before is not None:
            for name in ("data", *PLACEMENT):
                before.events[name].disconnect(self._on_source_changed)
        self._followed = None if layer is None else ref(layer)
        if layer is not None:
            for name in ("data", *PLACEMENT):
                layer.events[name].connect(self._on_source_changed)
            if layer not in self._known:
                self._known.add(layer)
                layer.events.data.connect(self._on_other_data)

    def _on_other_data(self, event: Any) -> None:
        """Know the new data of a stack that isn't at work; it may be learnt from."""
        layer, at_work = event.source, self._followed and self._followed()
        if layer is at_work or layer not in self.viewer.layers:
            return
        key = str(layer.unique_id)
        try:
            self.session.take_data(key, next(iter(stacks_of([layer])), None))
        except OSError as e:
            show_error(f"the project of {layer.name} was not saved: {e}")
        if not any(source.key == key for source in self.session.sources):
            self._results.pop(key, None)  # pictures of another shape
            self._filled.pop(key, None)
        self.sources_changed.emit()

    def _on_source_changed(self) -> None:
        layer = self._followed() if self._followed is not None else None
        if layer is not None and layer in self.viewer.layers:
            self.choose(layer)
