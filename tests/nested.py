"""A small U-Net++ of random numbers, with a card that knows each of its depths."""

from __future__ import annotations

from pathlib import Path

import torch

from napari_emseg.core.card import Card, DataSet, Variant
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build

CONFIG = {"base": 2, "depth": 4}


def nested_weights(folder: Path, name: str = "nested") -> Weights:
    """Save a U-Net++ whose head d scores 0.9 + d / 100 and has threshold d / 10."""
    torch.manual_seed(0)
    network = build("unetpp", CONFIG)
    variants = tuple(
        Variant(
            depth=depth,
            scores={"v_rand": 0.9 + depth / 100},
            ms_per_megapixel={"cpu": 100.0 * depth},
            threshold=depth / 10,
        )
        for depth in (1, 2, 3, 4)
    )
    card = Card(
        name=name,
        architecture="unetpp",
        config=CONFIG,
        threshold=0.4,
        scores={"v_rand": 0.94},
        held_out_data=(DataSet(name="drawings", sections="0-3"),),
        variants=variants,
    )
    return save_weights(folder / f"{name}.safetensors", network.state_dict(), card)
