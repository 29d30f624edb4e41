"""Weights in, a BioImage.IO package out: one zip that other programs can run.

It holds the state dict with the name of its architecture (for Python with this
package), the network as TorchScript (for the rest), a small real picture with what the
network says of it (as numbers to test by, as TIFF and as cover to look at), and a
manifest, `rdf.yaml`, of format 0.5.
See https://bioimage-io.github.io/spec-bioimage-io/
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from tifffile import imwrite

from napari_emseg._installed import __version__
from napari_emseg.core.atomic import atomic_write, clear_leftovers
from napari_emseg.core.card import Card, format_score
from napari_emseg.core.intensity import normalise, section_range
from napari_emseg.core.tiles import Geometry
from napari_emseg.models.variants import with_facts
from napari_emseg.models.weights import Weights, bundled_folders
from napari_emseg.models.zoo import Network, network_class
from napari_emseg.sample import bundled

if TYPE_CHECKING:
    from torch import nn


MANIFEST = "rdf.yaml"
FORMAT = "0.5.12"
"""The first whose inputs say how they are padded that a released program reads."""

PARTS = {
    "state": "weights.pt",
    "script": "weights-torchscript.pt",
    "input": "test-input.npy",
    "output": "test-output.npy",
    "shown input": "sample-input.tif",
    "shown output": "sample-output.tif",
    "cover": "cover.png",
    "documentation": "README.md",
    "environment": "environment.yaml",
    "licence": "LICENCE-of-test-input.md",
}
"""Names of the files in the zip."""

CLIP = (-0.5, 1.5)
"""As `core.intensity.normalise`."""

PAPERS = {
    "unet": (
        "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical "
        "Image Segmentation. MICCAI (2015)",
        "10.1007/978-3-319-24574-4_28",
    ),
    "unetpp": (
        "Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for "
        "Medical Image Segmentation. DLMIA (2018)",
        "10.1007/978-3-030-00889-5_1",
    ),
    "cenet": (
        "Gu et al.: CE-Net: Context Encoder Network for 2D Medical Image "
        "Segmentation. IEEE Transactions on Medical Imaging (2019)",
        "10.1109/TMI.2019.2903562",
    ),
}
"""Of the architectures: what is to be cited, and its DOI."""

_DOI = re.compile(r"10\.\d{4,9}/[^\s;,]+")
_LICENCE = re.compile(
    r"\b(CC0-1\.0|CC-BY(?:-NC)?(?:-SA|-ND)?-\d\.\d|MIT|BSD-[23]-Clause|Apache-2\.0)\b"
)
"""SPDX identifiers that cards name, with hyphens for spaces."""


@dataclass(frozen=True, slots=True)
class Credits:
    """Who made weights, and what others may do with them.

    Parameters
    ----------
    authors
        Their names.
    maintainer
        Name of one of them at GitHub, by whom the collection asks to be answered.
    licence
        SPDX identifier such as `CC-BY-4.0`; empty if none is stated.
    """

    authors: tuple[str, ...] = ()
    maintainer: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        for name in self.authors:
            if not name.strip() or "/" in name or "\\" in name:
                msg = f"an author is a name without slashes, got {name!r}"
                raise ValueError(msg)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the collection of BioImage.IO asks for, and nobody has said."""
        said = {
            "its authors": self.authors,
            "who maintains it": self.maintainer,
            "its licence": self.licence,
        }
        return tuple(what for what, value in said.items() if not value)


def credits_of(
    weights: Weights,
    *,
    authors: tuple[str, ...] = (),
    maintainer: str = "",
    licence: str = "",
) -> Credits:
    """Return what is said, and else what is known of these weights.

    Raises
    ------
    ValueError
        If an author is no name.
    """
    ours = weights.path.parent in bundled_folders() and not authors
    return Credits(
        authors or (("napari-emseg developers",) if ours else ()),
        maintainer or ("napari-emseg" if ours else ""),
        licence or licence_of(weights.card),
    )


def licence_of(card: Card) -> str:
    """Return the SPDX identifier that a card's words on its licence begin with."""
    words = re.sub(r"(?<=CC) |(?<=[A-Z0-9]) (?=\d)", "-", card.licence)
    found = _LICENCE.search(words)
    return "" if found is None else found[1]


def citations(card: Card) -> list[dict[str, str]]:
    """Return what is to be cited and has a DOI: architecture, data, test picture."""
    sets = (*card.training_data, *card.validation_data, *card.held_out_data)
    found = [PAPERS[card.architecture]] if card.architecture in PAPERS else []
    crop: str = bundled.fib25().metadata["citation"]
    for text in (*(each.citation for each in sets), crop):
        doi = _DOI.search(text)
        if doi is not None:
            found.append((text, doi[0].rstrip(".")))
    return [
        {"text": text, "doi": doi} for doi, text in {d: t for t, d in found}.items()
    ]


def manifest_of(
    card: Card,
    geometry: Geometry,
    sums: dict[str, str],
    torch_version: str,
    credits: Credits,  # noqa: A002 - the word for it
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
        "name": _name(card),
        "description": _description(card),
        **_credited(credits),
        "cite": citations(card),
        "tags": list(TAGS),
        "covers": [file("cover")],
        "documentation": file("documentation"),
        "attachments": [file("licence")],
        "inputs": [
            _input(card, geometry)
            | {"test_tensor": file("input"), "sample_tensor": file("shown input")}
        ],
        "outputs": [
            _output(card, geometry)
            | {"test_tensor": file("output"), "sample_tensor": file("shown output")}
        ],
        "weights": weights,
        "config": {"emseg": {"card": card.model_dump(mode="json")}},
    }


TAGS = (
    *("electron-microscopy", "membrane", "neurons", "2d"),
    *("semantic-segmentation", "pytorch", "napari-emseg"),
)

LONGEST = 64
"""Characters of a name that the collection takes without a word."""


def _name(card: Card) -> str:
    """Return a name of the characters, and as long, as the collection takes it."""
    plain = re.sub(r"[^a-zA-Z0-9_+\- ()]", "-", card.name)[:LONGEST]
    return plain if len(plain) >= 5 else f"{plain} EM membranes"


def _description(card: Card) -> str:
    return (card.summary or f"{card.architecture} for membranes in EM")[:512]


def _credited(credits: Credits) -> dict[str, Any]:  # noqa: A002 - the word for it
    who, licence = credits.maintainer, credits.licence
    return {
        "authors": [{"name": name} for name in credits.authors],
        **({"maintainers": [{"github_user": who}]} if who else {}),
        **({"license": licence} if licence else {}),
    }


def _input(card: Card, geometry: Geometry) -> dict[str, Any]:
    rule = card.normalisation
    scale = {
        # each section by its own percentiles
        "axes": ["channel", "y", "x"] if card.context == 1 else ["y", "x"],
        "min_percentile": rule.low_percentile,
        "max_percentile": rule.high_percentile,
        "eps": 1e-12,
    }
    low, high = CLIP
    size = {"min": smallest_input(geometry), "step": geometry.stride}
    return {
        "id": "em",
        "description": _seen(card),
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": _channel_names(card)},
            *({**axis, "size": size} for axis in _space(card)),
        ],
        "data": {"type": "uint8"},
        # as beyond the border here; otherwise programs repeat the outermost pixels
        "pad": {"mode": "reflect"},
        "preprocessing": [
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
            {"id": "scale_range", "kwargs": scale},
            {"id": "clip", "kwargs": {"min": low, "max": high}},
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        ],
    }


def _seen(card: Card) -> str:
    if card.context == 1:
        return "EM sections with dark membranes, one grey channel"
    return (
        f"{card.context} neighbouring EM sections with dark membranes as channels, in "
        "order of z; the one in the middle is predicted"
    )


def _channel_names(card: Card) -> list[str]:
    """Return a name for each section that is seen: `z-1`, `em`, `z+1`."""
    half = card.context // 2
    return ["em" if k == 0 else f"z{k:+d}" for k in range(-half, half + 1)]


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


def documentation(card: Card, geometry: Geometry) -> str:
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
    scores = [f"- {k}: {format_score(k, value)}" for k, value in card.scores.items()]
    crop = bundled.fib25().metadata
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
        "## Where other programs give other numbers",
        _differences(card, geometry),
        "## Licences",
        f"Weights: {card.licence or 'not stated'}. The test input is a crop of: "
        f"{crop['citation']}, {crop['licence']}.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _differences(card: Card, geometry: Geometry) -> str:
    """Say what of a run here the steps of a package can't."""
    size = card.pixel_size_nm
    said = [
        "Predict by blocks (in bioimageio.core by `blocksize_parameter`), and grey "
        "values are scaled by the percentiles of the picture, as napari-emseg does. In "
        "one piece, bioimageio.core 0.11 mirrors the picture at its border first, and "
        "takes the percentiles of what is wider then.",
        "Alignment padding counts in the percentiles there, and not here; of pictures "
        "wider than 2,047 px every second pixel counts here, or fewer.",
    ]
    if size is not None:
        said.append(f"Resample to {size[0]:g} × {size[1]:g} nm per pixel before.")
    if card.normalisation.scope == "stack":
        said.append("Percentiles are those of the whole stack here.")
    if geometry.blend:
        said.append("What this network says depends on the block that it is shown.")
    return "\n".join(f"- {line}" for line in said)


LEFT_OUT = "Its affinities, and scores that were reached by them, are left out."
"""What the summary of a network says that gives no affinities in a package."""

SAME = 1e-5
"""Most that TorchScript may differ from the network, on another shape than traced."""

PIXELS = 192
"""Side of the test picture, at least; enough for some membranes."""


def export_weights(
    weights: Weights,
    path: Path,
    credits: Credits | None = None,  # noqa: A002 - the word for it
) -> Path:
    """Write a BioImage.IO package beside its final name and rename it when whole.

    TorchScript is left out if it doesn't give what the network gives. Grey values are
    scaled per section; alignment padding, which we leave out of the percentiles, can't
    be expressed there.

    Parameters
    ----------
    credits
        As `credits_of` by default.

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
    contents = _contents(weights, credits or credits_of(weights))
    clear_leftovers(path)
    with (
        atomic_write(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package,
    ):
        for name, data in contents.items():
            package.writestr(name, data)
    return path


def _contents(
    weights: Weights,
    credits: Credits,  # noqa: A002 - the word for it
) -> dict[str, bytes]:
    """Return the files by name; the manifest names the checksums of the others."""
    import torch

    network, card = _expressible(weights)
    geometry = cast("Network", network).geometry
    picture = _test_picture(geometry, card.context)
    expected = _expected(network, card, picture)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    files = {
        PARTS["state"]: _saved(state),
        PARTS["input"]: _npy(picture),
        PARTS["output"]: _npy(expected),
        PARTS["shown input"]: _tiff(picture),
        PARTS["shown output"]: _tiff(expected),
        PARTS["cover"]: _cover(picture[0, card.context // 2], expected[0, 0]),
        PARTS["documentation"]: documentation(card, geometry).encode(),
        PARTS["environment"]: environment().encode(),
        PARTS["licence"]: bundled.path("LICENCE-fib25.md").read_bytes(),
    }
    script = _script(network, picture.shape[1:], geometry)
    if script is not None:
        files[PARTS["script"]] = script
    sums = {name: sha256(data).hexdigest() for name, data in files.items()}
    manifest = manifest_of(card, geometry, sums, torch.__version__, credits)
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    return {MANIFEST: text.encode(), **files}


def keeps_affinities(card: Card) -> bool:
    """Tell if a package can say all that a network gives; affinities may not fit in.

    A step after the network is the same for all channels, so beside a soft-max of
    classes that exclude one another there is no place for them.
    """
    return not card.affinities or _activation(card) == "sigmoid"


def _expressible(weights: Weights) -> tuple[nn.Module, Card]:
    """Return the network and its card, as far as a package can say what it gives."""
    from napari_emseg.models.parts import without_affinities

    network, card = weights.network(), weights.card
    if keeps_affinities(card):
        return network, card
    small, config = without_affinities(network, card.architecture, card.config)
    kept = card.without_affinities(config)
    update = {"summary": f"{card.summary} {LEFT_OUT}".strip()}
    return small, with_facts(kept.model_copy(update=update), cast("Network", small))


def _test_picture(geometry: Geometry, context: int) -> NDArray[np.uint8]:
    """Return a part of bundled sections, `(1, context, y, x)`, as large as fits."""
    side = smallest_input(geometry)
    side += geometry.stride * max(0, (PIXELS - side) // geometry.stride)
    stack = bundled.fib25()
    sections = np.stack([stack.section(z % stack.shape[0]) for z in range(context)])
    enough = max(0, side - sections.shape[1])
    whole = np.pad(sections, ((0, 0), (0, enough), (0, enough)), mode="reflect")
    return np.ascontiguousarray(whole[None, :, :side, :side])


def _expected(
    network: nn.Module, card: Card, picture: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return what we make of the test picture, the halo still on it."""
    import torch

    from napari_emseg.models.forward import to_probabilities

    seen = [normalise(s, section_range(s, card.normalisation)) for s in picture[0]]
    values = torch.from_numpy(np.stack(seen)[None])
    with torch.inference_mode():
        found: NDArray[np.float32] = to_probabilities(network(values), network).numpy()
    return found


def _script(
    network: nn.Module, shape: tuple[int, ...], geometry: Geometry
) -> bytes | None:
    """Return the network as TorchScript; None if that gives other numbers."""
    import torch

    side = smallest_input(geometry)
    # neither square nor traced: constants taken from the shape would show
    seen = shape[0]
    other = torch.rand(1, seen, side + 2 * geometry.stride, side + geometry.stride)
    with warnings.catch_warnings(), torch.no_grad():
        # tracing warns of every number that it takes as constant; it is compared below
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.rand(1, *shape), check_trace=False)  # type: ignore[no-untyped-call]
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


def _tiff(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    imwrite(buffer, array, photometric="minisblack", compression="zlib")
    return buffer.getvalue()


def _cover(picture: NDArray[np.uint8], membrane: NDArray[np.float32]) -> bytes:
    """Return the picture and its membranes side by side, twice as wide as high."""
    trim = (picture.shape[0] - membrane.shape[0]) // 2
    kept = picture[trim : trim + membrane.shape[0], trim : trim + membrane.shape[1]]
    dark = np.rint(255 * (1 - membrane)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([kept, dark])).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
