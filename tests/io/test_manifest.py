"""napari's manifest offers what the table of formats holds."""

from __future__ import annotations

from importlib.resources import files

import yaml

from napari_emseg.io import OUTPUT_KINDS


def test_writers_offer_every_ending() -> None:
    text = files("napari_emseg").joinpath("napari.yaml").read_text("utf-8")
    offered = {
        writer["layer_types"][0]: writer["filename_extensions"]
        for writer in yaml.safe_load(text)["contributions"]["writers"]
    }
    every = dict.fromkeys(s for kind in OUTPUT_KINDS for s in kind.suffixes)
    pictures = dict.fromkeys(
        s for kind in OUTPUT_KINDS if not kind.cells_only for s in kind.suffixes
    )
    assert offered == {"image": list(pictures), "labels": list(every)}
