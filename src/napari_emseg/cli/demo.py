"""`emseg demo`: the main job on the bundled EM stack with the bundled weights."""

from __future__ import annotations

import json as json_text
import signal
from collections.abc import Callable, Iterator
from colorsys import hsv_to_rgb
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_emseg._installed import data_folder, only_in_data
from napari_emseg.cli.doctor import panels
from napari_emseg.cli.options import Json, Overwrite, ScopeOptions
from napari_emseg.cli.outputs import OutputTarget
from napari_emseg.cli.predict import facts, predict_to_file, run_words, size_words
from napari_emseg.cli.printing import print_json, print_line, print_table
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.segment import SegmentSummary, cells_from_probabilities
from napari_emseg.cli.weights import WeightsName, find_weights
from napari_emseg.core.atomic import atomic_write, write_whole
from napari_emseg.core.labels import touching
from napari_emseg.core.lock import Claim
from napari_emseg.core.settings import CellSettings, Device, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.models.weights import DEFAULT_WEIGHTS, Weights
from napari_emseg.sample import bundled

if TYPE_CHECKING:
    from napari_emseg.inference import PredictionResult


CAPTION_HEIGHT = 26
GAP = 6
CELL_OPACITY = 0.35
TURN = 0.618034
"""Golden section: neighbouring ids get hues that are far apart."""


def save_picture(
    path: Path,
    *,
    grey: NDArray[np.uint8],
    membrane: NDArray[np.float32],
    cells: NDArray[np.uint32],
    credit: str,
) -> None:
    """Write EM, probability of membrane and outlined cells side by side.

    Parameters
    ----------
    grey, membrane, cells
        `(y, x)` of one section.
    credit
        Whose EM it is, and its licence; written under the picture.
    """
    panels = {
        "EM": _as_rgb(grey),
        "probability of membrane": _as_rgb(np.rint(membrane * 255)),
        "cells": _outlined(grey, cells),
    }
    height, width = grey.shape
    size = (
        3 * width + 2 * GAP,
        height + 2 * CAPTION_HEIGHT,
    )
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=16)
    for n, (title, panel) in enumerate(panels.items()):
        x = n * (width + GAP)
        draw.text((x + 2, 3), title, "black", font)
        picture.paste(Image.fromarray(panel), (x, CAPTION_HEIGHT))
    small = ImageFont.load_default(size=13)
    draw.text((2, height + CAPTION_HEIGHT + 5), credit, "black", small)
    with atomic_write(path) as file:
        picture.save(file, format="PNG")


def outlines(cells: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return the pixels of cells `(y, x)` that have a 4-neighbour outside."""
    padded = np.pad(cells, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    found = np.zeros(cells.shape, bool)
    for neighbour in (
        padded[:-2, 1:-1],
        padded[2:, 1:-1],
        padded[1:-1, :-2],
        padded[1:-1, 2:],
    ):
        found |= neighbour != inner
    return found & (cells > 0)


def _as_rgb(grey: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def _outlined(grey: NDArray[np.uint8], cells: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Lay each cell's colour over the EM, its outline in full."""
    ids, index = np.unique(cells, return_inverse=True)
    colours = np.array([hsv_to_rgb(i * TURN % 1, 0.75, 1.0) for i in ids.tolist()])
    over = (255 * colours)[index.reshape(cells.shape)]
    opacity = np.where(cells > 0, CELL_OPACITY, 0.0)
    opacity[outlines(cells)] = 1.0
    mixed = _as_rgb(grey) * (1 - opacity[..., np.newaxis])
    mixed += over * opacity[..., np.newaxis]
    result: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return result


SHOWN = 3
"""The section of the picture."""


@dataclass(frozen=True)
class DemoSample:
    """The EM that the demo runs over, and what was drawn in it.

    Parameters
    ----------
    licence
        File of the sample that says it.
    truth
        Makes the membranes that were drawn, uint8: membrane 255, inside 0.
    remark
        What to know of it; empty if nothing.
    """

    credit: str
    licence: str
    stack: Callable[[], Stack]
    truth: Callable[[], Stack]
    remark: str = ""

    @classmethod
    def here(cls) -> DemoSample:
        """Return the fly neuropil, or what there is without napari-emseg-data."""
        return _VNC if data_folder() is not None else _FIB25


SECTIONS = 6
"""So many of the FIB-SEM sample are enough to see what happens."""


def _fib25() -> Stack:
    stack = bundled.fib25()
    return replace(stack, data=stack.data[:SECTIONS])


def _fib25_walls() -> Stack:
    """Return where the cells of the FIB-SEM sample touch, as membranes."""
    cells = bundled.fib25_cells()
    walls = 255 * touching(np.asarray(cells.data[:SECTIONS])).astype(np.uint8)
    return replace(cells, data=walls, name="FIB-25 membranes")


_VNC = DemoSample(
    "EM: fly larva, ventral nerve cord, ssTEM, 4.6 nm/px; Gerhard et al., figshare "
    "2013, CC BY-NC-SA 3.0",
    "LICENCE.md",
    bundled.vnc,
    bundled.vnc_membranes,
)
_FIB25 = DemoSample(
    "EM: adult fly, optic lobe, FIB-SEM, 10 nm/px; Takemura et al., PNAS 2015, its "
    "Creative Commons licence",
    "LICENCE-fib25.md",
    _fib25,
    _fib25_walls,
    "The weights isbi2012-* have seen no FIB-SEM, so expect low scores; "
    + only_in_data("the fly neuropil that they do well on"),
)

NAMES = {
    "em.tif": "EM, the bundled sample",
    "truth.tif": "its membranes by its authors, 255 = membrane",
    "membranes.tif": "probability of membrane, float32",
    "cells.tif": "cells of each section, uint32 ids",
    "neurites.tif": "cells through the stack, uint32 ids",
    "picture.png": "one section of them, side by side",
    "scores.json": "how the run went and what it scores",
    "LICENCE.md": "of em.tif and truth.tif",
}
"""What the demo writes."""


@dataclass(frozen=True)
class Files:
    """Where the demo writes it."""

    folder: Path

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def prepare(self, *, overwrite: bool) -> None:
        """Make the folder, and check that nothing is replaced without being asked.

        Raises
        ------
        FileExistsError, NotADirectoryError, OSError
            If a file is there already, or the folder can't be made.
        """
        if self.folder.exists() and not self.folder.is_dir():
            msg = f"{self.folder} is a file; --out needs a folder"
            raise NotADirectoryError(msg)
        there = [name for name in NAMES if self[name].exists()]
        if there and not overwrite:
            raise OutputExistsError(self[there[0]])
        self.folder.mkdir(parents=True, exist_ok=True)


def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for the results.")] = Path(
        "demo-output"
    ),
    weights: WeightsName = DEFAULT_WEIGHTS,
    device: Annotated[
        Device, Parameter(help="Where the network runs; auto takes a GPU.")
    ] = "auto",
    gui: Annotated[
        bool, Parameter(negative=(), help="Open napari on the results.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Do the main job on the bundled EM stack: membranes, cells, scores, a picture.

    The stack is six sections of fly neuropil with their membranes drawn by hand, if
    napari-emseg-data is installed; else six of FIB-SEM, which comes with napari-emseg.
    The results can be opened in napari and Fiji.
    """
    if gui:
        refuse_without_window()
    files, sample = Files(out), DemoSample.here()
    loaded = find_weights(weights)
    files.prepare(overwrite=overwrite)
    with Claim(files["scores.json"]):  # stands for all of them
        files.prepare(overwrite=overwrite)  # a run may have ended in between
        if not json:
            _introduce(sample)
        _write_sample(files, sample)
        run, cells = _run(files, loaded, device)
        _draw(files, sample.credit)
        scores = _score(files)
        record = {
            "out": str(out),
            "cells": cells.record["cells"],
            "scores": scores,
            "run": facts(run),
        }
        write_whole(files["scores.json"], json_text.dumps(record, indent=2) + "\n")
    if json:
        print_json(record)
    else:
        _report(files, run, cells.words, scores)
    if gui:
        _open_napari(files)


def refuse_without_window() -> None:
    """Raise a ValueError if napari's window can't open here."""
    found = panels()
    if not found.works:
        msg = f"--gui can't be served here: {found.words}"
        raise ValueError(msg)


def _introduce(sample: DemoSample) -> None:
    stack = sample.stack()
    size = " × ".join(f"{nm:g}" for nm in stack.voxel_size_nm or ())
    print_line(sample.credit)
    print_line(f"{size_words(stack.shape)}, {size} nm (z × y × x)")
    if sample.remark:
        print_line(sample.remark)


def _write_sample(files: Files, sample: DemoSample) -> None:
    save_stack(files["em.tif"], sample.stack(), overwrite=True)
    save_stack(files["truth.tif"], sample.truth(), overwrite=True)
    write_whole(files["LICENCE.md"], bundled.path(sample.licence).read_bytes())


def _run(
    files: Files, weights: Weights, device: Device
) -> tuple[PredictionResult, SegmentSummary]:
    """Do what `emseg predict` and `emseg segment` do; `files` may be replaced."""
    run = predict_to_file(
        ScopeOptions.of(open_stack(files["em.tif"])),
        OutputTarget(files["membranes.tif"], overwrite=True),
        weights,
        PredictSettings(device=device),
    )
    cells = cells_from_probabilities(
        ScopeOptions.of(open_stack(files["membranes.tif"])),
        OutputTarget(files["cells.tif"], overwrite=True),
        CellSettings(),
    )
    cells_from_probabilities(
        ScopeOptions.of(open_stack(files["membranes.tif"])),
        OutputTarget(files["neurites.tif"], overwrite=True),
        CellSettings(through="auto"),
    )
    return run, cells


def _score(files: Files) -> dict[str, float]:
    """Score the membranes by the challenge's V_Rand and V_Info."""
    from napari_emseg.metrics import v_rand_v_info_steps

    membrane = np.stack([*_sections(files["membranes.tif"])])
    truth = np.stack([*_sections(files["truth.tif"])])
    found = run_with_progress(v_rand_v_info_steps(1 - membrane, truth == 0))
    parts = ("", "_split", "_merge", "_threshold")
    names = [f"{score}{part}" for score in ("v_rand", "v_info") for part in parts]
    return {name: round(float(getattr(found, name)), 6) for name in names}


def _draw(files: Files, credit: str) -> None:
    grey, membrane, cells = (
        open_stack(files[name]).section(SHOWN)
        for name in ("em.tif", "membranes.tif", "cells.tif")
    )
    save_picture(
        files["picture.png"], grey=grey, membrane=membrane, cells=cells, credit=credit
    )


def _sections(path: Path) -> Iterator[NDArray[Any]]:
    stack = open_stack(path)
    return (stack.section(z) for z in range(stack.shape[0]))


def _report(
    files: Files, run: PredictionResult, cells: str, scores: dict[str, float]
) -> None:
    print_line(f"{files['membranes.tif']}: {run_words(run)}")
    print_line(cells)
    print_line("")
    rows = [
        (title, *(f"{scores[name + end]:.4f}" for end in ("", "_split", "_merge")))
        for title, name in (("V_Rand", "v_rand"), ("V_Info", "v_info"))
    ]
    print_table(("score (1 is best)", "", "split", "merge"), rows)
    print_line(
        "ISBI 2012 scores after border thinning, against the membranes of truth.tif"
    )
    print_line("")
    print_table((f"in {files.folder}", ""), list(NAMES.items()))


def _open_napari(files: Files) -> None:
    """Open napari on the results, with the panels beside them."""
    import napari
    from napari.layers import Layer

    from napari_emseg import read_layers

    viewer = napari.Viewer(title="napari-emseg demo")
    for name in ("em.tif", "membranes.tif", "cells.tif"):
        for layer in read_layers(str(files[name])):
            viewer.add_layer(Layer.create(*layer))
    viewer.layers["membranes"].visible = False
    viewer.layers.selection.active = viewer.layers["em"]
    viewer.dims.set_current_step(0, SHOWN)
    viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Qt's loop would never let it in
    napari.run()
