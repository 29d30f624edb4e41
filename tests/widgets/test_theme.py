"""Panels that follow signals, and what becomes of both."""

from __future__ import annotations

import gc

import psygnal
import pytest
from napari.utils.events import EventEmitter
from qtpy.QtWidgets import QWidget

from napari_emseg.widgets.theme import follow


class Sender:
    """An object with a signal of psygnal's."""

    changed = psygnal.Signal()


def emitter_of_napari() -> tuple[object, EventEmitter]:
    emitter = EventEmitter(type_name="changed")
    return emitter, emitter


def signal_of_psygnal() -> tuple[object, psygnal.SignalInstance]:
    sender = Sender()
    return sender, sender.changed


SIGNALS = pytest.mark.parametrize("make", [emitter_of_napari, signal_of_psygnal])


@SIGNALS
def test_a_widget_that_is_gone_is_not_called(qtbot, make):
    sender, signal = make()
    widget = QWidget()
    called = []
    follow(widget, signal, lambda: called.append(1))
    signal()
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    signal()
    assert called == [1]
    assert sender is not None  # it outlived the widget


@SIGNALS
def test_a_widget_and_its_sender_may_be_collected_together(qtbot, make):
    """Python empties them in any order: what is emptied first is not asked any more."""
    with qtbot.captureExceptions() as raised:
        for _ in range(20):
            sender, signal = make()
            parent = QWidget()
            parent.child = QWidget(parent)
            follow(parent.child, signal, lambda: None)
            parent.sender_of_signal = sender
            sender.receiver = parent
            del sender, signal, parent
        gc.collect()
    assert raised == []
