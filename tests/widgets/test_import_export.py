from __future__ import annotations

import zipfile

import pytest
import torch
import yaml
from nested import CONFIG, nested_weights

from napari_emseg.core.card import Card
from napari_emseg.core.records import Progress
from napari_emseg.models import importing
from napari_emseg.models.weights import read_weights, save_weights
from napari_emseg.models.zoo import build


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
    lacks = "its authors, who maintains it, its licence"  # as nobody said so
    assert finish(window) == f"saved as out.zip; it doesn't say {lacks}"
    exchange.import_file(tmp_path / "out.zip", tmp_path / "back.safetensors")
    assert finish(window) == "saved as back.safetensors"
    assert window.controller.session.weights == read_weights(
        tmp_path / "back.safetensors"
    )
    assert window.controller.session.weights.card.architecture == "unetpp"

    config = {"base": 2, "levels": 1, "affinities": [[-1, 0, 0]]}
    card = Card(name="near", architecture="unet", config=config)
    state = build("unet", config).state_dict()
    near = save_weights(tmp_path / "near.safetensors", state, card)
    window.membranes.add_weights(near.path)
    exchange.export_file(tmp_path / "near.zip")
    saved = "saved as near.zip without affinities"
    assert finish(window) == f"{saved}; it doesn't say {lacks}"


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


def test_weights_at_an_address_are_offered(window, tmp_path, monkeypatch) -> None:
    """Nothing is fetched before Download is pressed."""
    exchange, asked = window.membranes.exchange, []
    exchange.export_file(tmp_path / "out.zip")
    finish(window)
    with zipfile.ZipFile(tmp_path / "out.zip") as old:
        files = {name: old.read(name) for name in old.namelist()}
    data = files.pop("weights.pt")
    said = yaml.safe_load(files["rdf.yaml"])
    said["weights"]["pytorch_state_dict"]["source"] = "https://example.org/w.pt"
    files["rdf.yaml"] = yaml.safe_dump(said).encode()
    with zipfile.ZipFile(tmp_path / "far.zip", "w") as new:
        for name, content in files.items():
            new.writestr(name, content)

    def downloading(url, digits, name):
        asked.append(url)
        yield Progress("downloading", len(data), len(data))
        return data

    monkeypatch.setattr(importing, "downloading", downloading)
    exchange.import_file(tmp_path / "far.zip", tmp_path / "in.safetensors")
    words = finish(window)
    assert "at https://example.org/w.pt (sha256 " in words
    assert words.endswith("nothing was downloaded. Download them?")
    assert exchange.download.isVisibleTo(exchange)
    assert not asked
    window.click(exchange.download)
    assert finish(window) == "saved as in.safetensors"
    assert asked == ["https://example.org/w.pt"]
    assert not exchange.download.isVisibleTo(exchange)


def test_what_is_no_weights_file_is_refused(window, tmp_path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    before = window.controller.session.weights
    exchange = window.membranes.exchange
    exchange.import_file(tmp_path / "bad.zip", tmp_path / "in.safetensors")
    assert "damaged" in finish(window)
    assert exchange.message.property("role") == "error"
    assert window.controller.session.weights == before
