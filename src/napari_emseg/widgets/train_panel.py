"""5 Train: corrections in, candidate weights out, while the person goes on."""

from functools import partial
from typing import Any, get_args

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_emseg._napari import stack_of
from napari_emseg.core.labels import Labelled
from napari_emseg.core.training import (
    FinetuneSettings,
    NewWeightsSettings,
    TrainSettings,
)
from napari_emseg.models.zoo import architectures
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.comparison import meaning_said
from napari_emseg.session.learning import Learning
from napari_emseg.session.round_preview import RoundPreview
from napari_emseg.session.training_inputs import TrainingInputs
from napari_emseg.training.corrections import LabelMeaning
from napari_emseg.widgets.background import LatestOnlyWorker
from napari_emseg.widgets.candidate import CandidateBox
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.flow_row import shorten
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.theme import (
    CollapsibleBox,
    combo_box,
    follow,
    follow_soon,
    form_layout,
    panel_layout,
    row_label,
    set_role,
    text_label,
)
from napari_emseg.widgets.train_row import LearningPlot, RoundsList, TrainRow

NONE = "none"
HELP = """What the labels are. It is never guessed:<br>
<b>membrane</b>, <b>inside</b>: masks<br>
<b>cells</b>: one number for each cell, 0 between them<br>
<b>corrections</b>: 1 membrane, 2 inside, 3 and more for classes of your own, 0 unknown
"""
SPARSE_HELP = """<b>complete sections</b>: all of a section with any label counts, and
what has no label is what the labels aren't<br>
<b>sparse labels</b>: only what is labelled counts, as with strokes; all else is unknown
"""

COMPLETE, SPARSE = "complete sections", "sparse labels"


class MaterialBox(QWidget):
    """Chooses existing annotations, and stacks that join.

    Signals: `answered` when something was chosen about labels.
    """

    answered = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._material: TrainingInputs = controller.learning.material
        self._drawn = ""
        self.labels = combo_box()
        self.meaning = combo_box()
        self.meaning.addItems(get_args(LabelMeaning))
        self.meaning.setPlaceholderText("choose a type")
        self.meaning.setToolTip(HELP)
        self.extent = combo_box()
        self.extent.addItems((COMPLETE, SPARSE))
        self.extent.setPlaceholderText("sparse or complete?")
        self.extent.setToolTip(SPARSE_HELP)
        self._asking = LatestOnlyWorker()
        self._asking.found.connect(self._on_labelled)
        self._asking.failed.connect(self._on_unreadable)
        self.stacks: dict[str, QCheckBox] = {}
        self.message = text_label()
        form = form_layout()
        form.addRow(row_label("Labels"), self.labels)
        form.addRow(row_label("type"), self.meaning)
        form.addRow(row_label("are"), self.extent)
        self._boxes = QVBoxLayout()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addLayout(self._boxes)
        layout.addWidget(self.message)
        self.labels.activated.connect(self._on_layer)
        self.meaning.activated.connect(self._on_chosen)
        self.extent.activated.connect(self._on_chosen)
        self._catch_up = follow_soon(self, controller.sources_changed, self.list_layers)
        follow(self, controller.session.events.source, self.list_layers)
        follow(self, self._material.changed, self._list_stacks)
        self.list_layers()

    def list_layers(self) -> None:
        """List layers that might be labels of the stack at work."""
        chosen = self.labels.currentData()
        self.labels.clear()
        self.labels.addItem(NONE, None)
        for layer in self._candidates():
            self.labels.addItem(layer.name, str(layer.unique_id))
        index = self.labels.findData(chosen) if chosen else 0
        self.labels.setCurrentIndex(max(0, index))
        if index < 0:
            self._on_layer()
        self.meaning.setEnabled(self.labels.currentData() is not None)
        self._list_stacks()

    def _candidates(self) -> list[Layer]:
        """Return layers of the stack's shape; labels, and images that are masks."""
        source, here = self._controller.session.source, self._controller.source_layer
        if source is None:
            return []
        return [
            layer
            for layer in self._controller.viewer.layers
            if isinstance(layer, Labels | Image)
            and layer is not here
            and tuple(layer.data.shape) in (source.stack.shape, source.stack.shape[1:])
            and self._controller.results_with(layer) is None
        ]

    def _layer(self) -> Layer | None:
        key = self.labels.currentData()
        return next((x for x in self._candidates() if str(x.unique_id) == key), None)

    def _on_layer(self, *_: Any) -> None:
        layer = self._layer()
        self.meaning.setEnabled(layer is not None)
        said = None if layer is None else meaning_said(stack_of(layer))
        self.meaning.setCurrentIndex(
            -1 if said is None else self.meaning.findText(said)
        )
        self.extent.setCurrentIndex(-1)
        self._on_chosen()

    @property
    def question(self) -> str:
        """What must be said of the chosen labels before they are learnt from."""
        self._catch_up()
        layer = self._layer()
        if layer is None or self._drawn:
            return ""
        if not self.meaning.currentText():
            return f"Additional labels: choose the type of {layer.name}."
        if self.extent.isEnabled() and self.extent.currentIndex() < 0:
            return f"Additional labels: say if {layer.name} is sparse or complete."
        return ""

    def _on_chosen(self, *_: Any) -> None:
        self._choose()
        self.answered.emit()

    def _choose(self) -> None:
        """Learn from these labels, and not from those before."""
        layer, meaning = self._layer(), self.meaning.currentText()
        if self._drawn:
            self._material.undraw(self._drawn)
            self._drawn = ""
        self.message.setText("")
        self._asking.drop()
        strokes = meaning == "corrections"
        self.extent.setEnabled(layer is not None and not strokes)
        if layer is None:
            return
        if not meaning:
            self._say(f"choose the type of {layer.name}", "note")
            return
        key, labels = str(layer.unique_id), stack_of(layer)
        sparse = strokes or self.extent.currentText() == SPARSE
        try:
            known = self._material.imported(key, labels, meaning, sparse=sparse)
            self._asking.ask(known.labelled)
            if strokes or self.extent.currentIndex() >= 0:
                self._material.draw(key, labels, meaning, sparse=sparse)
                self._drawn = key
        except ValueError as e:
            self._say(str(e), "error")

    def _on_labelled(self, found: Labelled) -> None:
        """Say how much is labelled, and doubt that very little is all."""
        extent, words = self.extent.currentText(), found.words
        role = "note"
        if self.extent.isEnabled() and not extent:
            words += "; say if that is sparse or complete"
        elif extent == COMPLETE and found.doubtful:
            other = "membrane" if self.meaning.currentText() != "membrane" else "inside"
            words += f"; as complete sections, all the rest teaches {other}"
        else:
            role = "hint"
        self._say(words, role)

    def _on_unreadable(self, error: Exception) -> None:
        self._say(str(error), "error")

    def _say(self, words: str, role: str) -> None:
        self.message.setText(words)
        set_role(self.message, role)

    def _list_stacks(self) -> None:
        """Offer the other stacks that were worked on."""
        others = {source.key: source.name for source in self._material.others()}
        for key in [key for key in self.stacks if key not in others]:
            box = self.stacks.pop(key)
            self._boxes.removeWidget(box)
            box.deleteLater()
        for key, name in others.items():
            if key not in self.stacks:
                box = QCheckBox()
                box.toggled.connect(partial(self._on_joined, key))
                self._boxes.addWidget(box)
                self.stacks[key] = box
            box = self.stacks[key]
            box.setText(f"and from {shorten(name)}")
            box.setToolTip(name)
            blocked = box.blockSignals(True)
            box.setChecked(self._material.is_joined(key))
            box.blockSignals(blocked)

    def _on_joined(self, key: str, joined: bool) -> None:
        self._material.join(key, joined=joined)


ELSEWHERE = ("device", "invert")
"""Settings that are those of runs; see 2 Membranes."""

FIRST = ("trained", "steps")
FINE = (
    *FIRST,
    *(
        name
        for name in FinetuneSettings.model_fields
        if name not in (*ELSEWHERE, *FIRST, "augment")
    ),
)
SHAPE = ("width", "context", "affinities")
ANEW = tuple(n for n in TrainSettings.model_fields if n not in (*ELSEWHERE, "augment"))

IN_USE, NEW = "weights in use", "new weights"
SOON_MS = 250
"""After a stroke, until it is counted."""

UNKNOWN = (
    "Outside of reviewed sections and regions, what has no label is unknown: it is "
    "not learnt as background. New classes are named in 4 Correct."
)


class TrainPanel(QWidget):
    """Learns from corrections, compares, and lets the person choose."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._learning: Learning = self._controller.learning
        training = self._controller.training
        self.begin = combo_box()
        self.learns = text_label(role="plain")
        self.judges = text_label()
        self.run = TrainRow(training, self._learning, lambda: self.new)
        self.plot = LearningPlot(self._controller.viewer)
        self.since = text_label(role="note")
        self.candidate = CandidateBox(self._controller)
        self.rounds = RoundsList(self._controller)
        self.material = MaterialBox(self._controller)
        self.settings = SettingsForm(self._learning.settings, fields=FINE)
        self.network = combo_box()
        self.network_form = SettingsForm(self._learning.new_settings, fields=SHAPE)
        self.new_settings = SettingsForm(
            self._learning.new_settings.training, fields=ANEW
        )
        self._asking = LatestOnlyWorker()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._lay_out()
        self._connect()
        self._on_state()

    def attach(self) -> None:
        """Have the key of the candidate while the panel can be seen."""
        self.candidate.attach()

    def detach(self) -> None:
        """Give it back."""
        self.candidate.detach()

    @property
    def new(self) -> bool:
        """True if new weights are wanted."""
        return bool(self.begin.currentData() == NEW)

    def _lay_out(self) -> None:
        begin, network = form_layout(), form_layout()
        begin.addRow(row_label("Base model"), self.begin)
        network.addRow(row_label("Network"), self.network)
        self._new_box, self._new_fold = QWidget(), QWidget()
        inner = QVBoxLayout(self._new_box)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addLayout(network)
        inner.addWidget(self.network_form)
        forms = QVBoxLayout(self._new_fold)
        forms.setContentsMargins(0, 0, 0, 0)
        forms.addWidget(self.settings)
        forms.addWidget(self.new_settings)
        self.network.addItems(architectures())
        layout = panel_layout(self)
        layout.addLayout(begin)
        for widget in (self._new_box, self.learns, self.judges):
            layout.addWidget(widget)
        self.run.stick_in(layout)
        layout.addWidget(self.plot)
        layout.addWidget(self.since)
        layout.addWidget(self.candidate)
        layout.addWidget(
            CollapsibleBox("Additional labels", self.material, role="link")
        )
        layout.addWidget(CollapsibleBox("Settings", self._new_fold, role="link"))
        layout.addWidget(CollapsibleBox("Rounds", self.rounds, role="link"))
        layout.addWidget(text_label(UNKNOWN))

    def _connect(self) -> None:
        self.begin.activated.connect(self._on_state)
        self.network.activated.connect(self._on_network)
        self.settings.edited.connect(self._on_settings)
        self.network_form.edited.connect(self._on_shape)
        self.new_settings.edited.connect(self._on_new_settings)
        self._soon.timeout.connect(self._ask)
        self._asking.found.connect(self._on_prospect)
        self.material.answered.connect(self._soon.start)
        self._asking.failed.connect(self._on_unknown)
        session = self._controller.session
        follow(self, self._learning.changed, self._on_state)
        follow(self, session.events.source, self._on_state)
        follow(self, session.events.source, self._on_training)
        follow(self, session.events.weights, self._on_state)
        follow(self, self._controller.training.changed, self._on_training)
        follow(self, self._controller.sources_changed, self._on_corrected)
        self._controller.job.ended.connect(
            self._on_corrected
        )  # the first run makes room
        self._followed: AnnotationEditor | None = None
        self.destroyed.connect(lambda: self._leave())

    def _on_state(self, *_: Any) -> None:
        """Show what a round would begin with, and soon what it would learn from."""
        self._follow_hand()
        weights = self._controller.session.weights
        new = self.new or weights is None
        self.begin.clear()
        if weights is not None:
            self.begin.addItem(f"{weights.card.name} (in use)", IN_USE)
        self.begin.addItem(NEW, NEW)
        self.begin.setCurrentIndex(self.begin.findData(NEW if new else IN_USE))
        self._new_box.setVisible(new)
        self.new_settings.setVisible(new)
        self.settings.setVisible(not new)
        self.network.setCurrentText(self._learning.new_settings.architecture)
        self.network_form.setEnabled(self._learning.new_settings.is_bundled)
        self._show_since()
        self._soon.start()

    def _follow_hand(self) -> None:
        """Count corrections of the stack at work as they are made."""
        source = self._controller.session.source
        begun = source is not None and source.editor.begun
        self._follow(source.editor if begun and source is not None else None)

    def _follow(self, hand: AnnotationEditor | None) -> None:
        if hand is self._followed:
            return
        if self._followed is not None:
            self._followed.changed.disconnect(self._on_corrected)
        self._followed = hand
        if hand is not None:
            hand.changed.connect(self._on_corrected)

    def _on_corrected(self, *_: Any) -> None:
        self._soon.start()

    def _ask(self) -> None:
        self._follow_hand()
        self._show_since()
        self._asking.ask(self._learning.material.ask(new=self.new))

    def _on_prospect(self, prospect: RoundPreview) -> None:
        self.learns.setText(prospect.learns)
        set_role(self.learns, "plain" if prospect.ready else "note")
        self.judges.setText(prospect.judges)
        set_role(self.judges, "note" if prospect.doubtful else "hint")
        self.judges.setVisible(bool(prospect.judges))
        question = self.material.question
        if question:
            self.judges.setText(question)
            set_role(self.judges, "note")
            self.judges.setVisible(True)
        self.run.set_ready(prospect.ready and not question, question or prospect.learns)

    def _on_unknown(self, error: Exception) -> None:
        self._on_prospect(RoundPreview(str(error), ready=False))

    def _show_since(self) -> None:
        n = self._learning.since
        words = f"{n} correction{'s' * (n != 1)} since this round began: for the next"
        self.since.setText(f"{words} one.")
        self.since.setVisible(n > 0)

    def _on_training(self) -> None:
        training = self._controller.training
        self.plot.show_curve(training.curve if training.shown else ())

    def _on_settings(self, settings: FinetuneSettings) -> None:
        self._learning.settings = settings

    def _on_network(self, *_: Any) -> None:
        chosen = {"architecture": self.network.currentText()}
        self._put(self._learning.new_settings.model_copy(update=chosen))

    def _on_shape(self, settings: NewWeightsSettings) -> None:
        chosen = {name: getattr(settings, name) for name in SHAPE}
        self._put(self._learning.new_settings.model_copy(update=chosen))

    def _on_new_settings(self, settings: TrainSettings) -> None:
        chosen = {"training": settings}
        self._put(self._learning.new_settings.model_copy(update=chosen))

    def _put(self, settings: NewWeightsSettings) -> None:
        self._learning.new_settings = settings
        self.network_form.show_settings(settings)
        self.network_form.setEnabled(settings.is_bundled)

    def _leave(self) -> None:
        """Listen to nothing more: the panel is deleted, this is what is left of it."""
        self._asking.drop()
        self._follow(None)
