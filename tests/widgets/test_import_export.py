from __future__ import annotations

import pytest
import torch
from nested import CONFIG, nested_weights

from napari_emseg.models.weights import read_weights


@pytest.fixture
def window(open_window, em, tmp_path):
    """A window with U-Net++ weights on a stack."""
    window = open_window(em())
    window.membranes.add_weights(nested_weights(tmp_path).path)
    return window


def finish(window) -> str:
    exchange = window.membranes.exchange
    if exchange._job.busy:
        with window.qtbot.waitSignal(exchange._job.ended, timeout=120_000):
            pass
    return exchange.message.text()


def test_a_package_goes_out_and_comes_back(window, tmp_path) -> None:
    exchange = window.membranes.exchange
    exchange.export_file(tmp_path / "out.zip")
    assert finish(window) == "saved as out.zip"
    exchange.import_file(tmp_path / "out.zip", tmp_path / "back.safetensors")
    assert finish(window) == "saved as back.safetensors"
    assert window.controller.session.weights == read_weights(
        tmp_path / "back.safetensors"
    )
    assert window.controller.session.weights.card.architecture == "unetpp"


def test_a_foreign_state_dict_asks_for_its_network(window, tmp_path) -> None:
    exchange = window.membranes.exchange
    state = window.controller.session.weights.network().state_dict()
    torch.save(state, tmp_path / "foreign.pt")
    exchange.import_file(tmp_path / "foreign.pt", tmp_path / "in.safetensors")
    assert "doesn't say what network it is for" in finish(window)
    question = exchange.question
    assert question.isVisibleTo(exchange)
    question.architecture.setCurrentText("unetpp")
    window.click(question.answer)
    assert "doesn't fit the network" in finish(window)  # of another width
    question.shape.findChild(object, "base").setValue(CONFIG["base"])
    window.click(question.answer)
    assert finish(window) == "saved as in.safetensors"
    assert window.controller.session.weights.path == tmp_path / "in.safetensors"
    assert window.membranes.weights.currentText() == "in"
    assert not question.isVisibleTo(exchange)


def test_what_is_no_weights_file_is_refused(window, tmp_path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    before = window.controller.session.weights
    exchange = window.membranes.exchange
    exchange.import_file(tmp_path / "bad.zip", tmp_path / "in.safetensors")
    assert "damaged" in finish(window)
    assert exchange.message.property("role") == "error"
    assert window.controller.session.weights == before
