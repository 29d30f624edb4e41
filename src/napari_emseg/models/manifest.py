"""What a BioImage.IO package says of itself, to programs and to people."""

from __future__ import annotations

from typing import Any

import yaml

from napari_emseg._version import __version__
from napari_emseg.core.card import Card
from napari_emseg.core.tiles import Geometry
from napari_emseg.models.zoo import network_class
from napari_emseg.sample import bundled

MANIFEST = "rdf.yaml"
FORMAT = "0.5.4"
PARTS = {
    "state": "weights.pt",
    "script": "weights-torchscript.pt",
    "input": "test-input.npy",
    "output": "test-output.npy",
    "documentation": "README.md",
    "environment": "environment.yaml",
    "licence": "LICENCE-of-test-input.md",
}
"""Names of the files in the zip."""

CLIP = (-0.5, 1.5)
"""As `core.intensity.normalise`."""


def manifest_of(
    card: Card, geometry: Geometry, sums: dict[str, str], torch_version: str
) -> dict[str, Any]:
    """Return the manifest of a package.

    Parameters
    ----------
    sums
        SHA-256 of each file that is in it, by name.
    """
    version = torch_version.partition("+")[0]

    def file(part: str) -> dict[str, str]:
        return {"source": PARTS[part], "sha256": sums[PARTS[part]]}

    weights: dict[str, Any] = {
        "pytorch_state_dict": {
            **file("state"),
            "pytorch_version": version,
            "architecture": {
                "import_from": "napari_emseg.models.zoo",
                "callable": "build",
                "kwargs": {"architecture": card.architecture, "config": card.config},
            },
            "dependencies": file("environment"),
        }
    }
    if PARTS["script"] in sums:
        weights["torchscript"] = {
            **file("script"),
            "pytorch_version": version,
            "parent": "pytorch_state_dict",
        }
    return {
        "type": "model",
        "format_version": FORMAT,
        "name": card.name,
        "description": card.summary or f"{card.architecture} for membranes in EM",
        **({"license": "BSD-3-Clause"} if "BSD-3-Clause" in card.licence else {}),
        "tags": ["electron-microscopy", "membrane", "2d", "semantic-segmentation"],
        "documentation": PARTS["documentation"],
        "attachments": [file("licence")],
        "inputs": [_input(card, geometry) | {"test_tensor": file("input")}],
        "outputs": [_output(card, geometry) | {"test_tensor": file("output")}],
        "weights": weights,
        "config": {"emseg": {"card": card.model_dump(mode="json")}},
    }


def _input(card: Card, geometry: Geometry) -> dict[str, Any]:
    rule = card.normalisation
    scale = {
        "axes": ["channel", "y", "x"],
        "min_percentile": rule.low_percentile,
        "max_percentile": rule.high_percentile,
        "eps": 1e-12,
    }
    low, high = CLIP
    size = {"min": smallest_input(geometry), "step": geometry.stride}
    return {
        "id": "em",
        "description": "EM sections with dark membranes, one grey channel",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["em"]},
            *({**axis, "size": size} for axis in _space(card)),
        ],
        "data": {"type": "uint8"},
        "preprocessing": [
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
            {"id": "scale_range", "kwargs": scale},
            {"id": "clip", "kwargs": {"min": low, "max": high}},
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        ],
    }


def _output(card: Card, geometry: Geometry) -> dict[str, Any]:
    softmax = {"id": "softmax", "kwargs": {"axis": "channel"}}
    is_softmax = _activation(card) == "softmax"
    axes = []
    for axis in _space(card):
        size = {"tensor_id": "em", "axis_id": axis["id"], "offset": -2 * geometry.trim}
        halo = {"halo": geometry.halo} if geometry.trim == 0 and geometry.halo else {}
        axes.append({**axis, "size": size, **halo})
    return {
        "id": "probabilities",
        "description": "probability of each class",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(card.classes)},
            *axes,
        ],
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "postprocessing": [softmax if is_softmax else {"id": "sigmoid"}],
    }


def _space(card: Card) -> list[dict[str, Any]]:
    sizes = card.pixel_size_nm
    if sizes is None:
        return [{"type": "space", "id": axis} for axis in "yx"]
    return [
        {"type": "space", "id": axis, "unit": "nanometer", "scale": size}
        for axis, size in zip("yx", sizes, strict=True)
    ]


def _activation(card: Card) -> str:
    return network_class(card.architecture).activation


def smallest_input(geometry: Geometry) -> int:
    """Return the shortest side of an input with something left beside its halo."""
    origin = geometry.origin(0)
    return geometry.stop(origin, geometry.stride) - origin


def environment() -> str:
    """Return the conda environment that the state dict is run in."""
    needs = ["python>=3.11", "pytorch>=2.6", "pip", {"pip": ["napari-emseg"]}]
    made = {"channels": ["conda-forge"], "dependencies": needs}
    return str(yaml.safe_dump(made, sort_keys=False))


def documentation(card: Card) -> str:
    """Return the package's page for people, in Markdown."""
    data = [
        f"- {kind}: {each.name}, sections {each.sections}; "
        f"licence: {each.licence or 'not stated'}"
        for kind, sets in (
            ("learnt from", card.training_data),
            ("validated on", card.validation_data),
            ("scored on", card.held_out_data),
        )
        for each in sets
    ]
    scores = [f"- {name}: {value:.4f}" for name, value in card.scores.items()]
    lines = [
        f"# {card.name}",
        card.summary,
        f"Probability of {', '.join(card.classes)} in sections of electron microscopy, "
        f"made by napari-emseg {__version__}. Membrane is above {card.threshold:g}.",
        "## Data",
        *data,
        "## Validation",
        "Scores of the ISBI 2012 challenge on sections that had no part in training:",
        *(scores or ["none measured"]),
        "## Licences",
        f"Weights: {card.licence or 'not stated'}. The test input is a crop of: "
        f"{bundled.CITATION}, {bundled.LICENCE}, not for commercial use.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"
