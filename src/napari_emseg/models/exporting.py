"""Weights in, a BioImage.IO package out: one zip that other programs can run.

It holds the state dict with the name of its architecture (for Python with this
package), the network as TorchScript (for the rest), a small real picture with what the
network says of it, and a manifest, `rdf.yaml`, of format 0.5.
See https://bioimage-io.github.io/spec-bioimage-io/
"""

from __future__ import annotations

import io
import warnings
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from napari_emseg.core.atomic import atomic_write, clear_leftovers
from napari_emseg.core.card import Card
from napari_emseg.core.intensity import normalise, section_range
from napari_emseg.core.tiles import Geometry
from napari_emseg.models.manifest import (
    MANIFEST,
    PARTS,
    documentation,
    environment,
    manifest_of,
    smallest_input,
)
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import Network
from napari_emseg.sample import bundled

if TYPE_CHECKING:
    from torch import nn

SAME = 1e-5
"""Most that TorchScript may differ from the network, on another shape than traced."""

PIXELS = 192
"""Side of the test picture, at least; enough for some membranes."""


def export_weights(weights: Weights, path: Path) -> Path:
    """Write a BioImage.IO package beside its final name and rename it when whole.

    TorchScript is left out if it doesn't give what the network gives. Grey values are
    scaled per section; alignment padding, which we leave out of the percentiles, can't
    be expressed there.

    Raises
    ------
    ValueError
        If the name doesn't end in `.zip`, or the weights don't fit their network.
    OSError
        If it can't be written.
    """
    if path.suffix != ".zip":
        msg = f"a BioImage.IO package ends in .zip, got {path}"
        raise ValueError(msg)
    contents = _contents(weights)
    clear_leftovers(path)
    with (
        atomic_write(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package,
    ):
        for name, data in contents.items():
            package.writestr(name, data)
    return path


def _contents(weights: Weights) -> dict[str, bytes]:
    """Return the files by name; the manifest names the checksums of the others."""
    import torch

    network = weights.network()
    geometry = cast("Network", network).geometry
    picture = _test_picture(geometry)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    files = {
        PARTS["state"]: _saved(state),
        PARTS["input"]: _npy(picture),
        PARTS["output"]: _npy(_expected(network, weights.card, picture)),
        PARTS["documentation"]: documentation(weights.card).encode(),
        PARTS["environment"]: environment().encode(),
        PARTS["licence"]: bundled.path("LICENCE.md").read_bytes(),
    }
    script = _script(network, picture.shape[2:], geometry)
    if script is not None:
        files[PARTS["script"]] = script
    sums = {name: sha256(data).hexdigest() for name, data in files.items()}
    manifest = manifest_of(weights.card, geometry, sums, torch.__version__)
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    return {MANIFEST: text.encode(), **files}


def _test_picture(geometry: Geometry) -> NDArray[np.uint8]:
    """Return a part of the bundled section, `(1, 1, y, x)`, as large as fits."""
    side = smallest_input(geometry)
    side += geometry.stride * max(0, (PIXELS - side) // geometry.stride)
    section = bundled.vnc().section(0)
    enough = max(0, side - section.shape[0])
    whole = np.pad(section, ((0, enough), (0, enough)), mode="reflect")
    return np.ascontiguousarray(whole[None, None, :side, :side])


def _expected(
    network: nn.Module, card: Card, picture: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return what we make of the test picture, the halo still on it."""
    import torch

    from napari_emseg.models.forward import to_probabilities

    grey = section_range(picture[0, 0], card.normalisation)
    values = torch.from_numpy(normalise(picture, grey))
    with torch.inference_mode():
        found: NDArray[np.float32] = to_probabilities(network(values), network).numpy()
    return found


def _script(
    network: nn.Module, shape: tuple[int, ...], geometry: Geometry
) -> bytes | None:
    """Return the network as TorchScript; None if that gives other numbers."""
    import torch

    side = smallest_input(geometry)
    other = torch.rand(1, 1, side + 2 * geometry.stride, side + geometry.stride)
    with warnings.catch_warnings(), torch.no_grad():
        # tracing warns of every number that it takes as constant; it is compared below
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.rand(1, 1, *shape), check_trace=False)  # type: ignore[no-untyped-call]
        difference = float((traced(other) - network(other)).abs().max())
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    return buffer.getvalue() if difference <= SAME else None


def _saved(state: dict[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
