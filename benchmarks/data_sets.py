"""The public data that weights are made with: where it is, what it means, its split.

Neighbouring sections show the same cells, so at least three sections (ISBI, VNC) or ten
(cortex, fib25) lie between those learnt from and those held out. Sections to validate
on lie between them or beside the held-out ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_emseg.core.card import DataSet
from napari_emseg.core.labels import Meaning
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.training.card import Split
from napari_emseg.training.mixture import LabelledStack, Views

ROOT = Path(__file__).resolve().parents[1]

RUNS = ROOT / "runs"
"""Where unfinished training and its results are kept."""


@dataclass(frozen=True)
class Data:
    """A data set below the folder of shared data; `split` in its own numbers.

    `before` are files of images and labels of the sections that lie before these.
    """

    key: str
    name: str
    images: str
    labels: str
    meaning: Meaning
    voxel_size_nm: tuple[float, float, float]
    split: Split
    licence: str
    citation: str
    share: float = 1.0
    unlabelled_beyond: float | None = None
    views: Views = 1
    before: tuple[str, str] | None = None

    def source(self, folder: Path) -> LabelledStack:
        """Open it."""
        images = folder / self.images
        split = places(images, self.split) if images.is_dir() else self.split
        stacks = open_stack(images), open_stack(folder / self.labels)
        if self.before is not None:
            first = (open_stack(folder / path) for path in self.before)
            stacks = tuple(map(joined, first, stacks))
        return LabelledStack(
            self.key,
            replace(stacks[0], voxel_size_nm=self.voxel_size_nm),
            stacks[1],
            self.meaning,
            split,
            share=self.share,
            unlabelled_beyond=self.unlabelled_beyond,
            views=self.views,
        )

    def in_card(self, sections: tuple[int, ...]) -> DataSet:
        """Say in a card which of its sections were used."""
        return DataSet(
            name=self.name,
            sections=ranges(sections),
            licence=self.licence,
            citation=self.citation,
        )


def joined(one: Stack, other: Stack) -> Stack:
    """Return the sections of one stack, and then those of another."""
    both = [np.asarray(stack.data[:]) for stack in (one, other)]
    return replace(one, data=np.concatenate(both))


def ranges(sections: tuple[int, ...]) -> str:
    """Write section numbers the short way: `0-2, 27-29`."""
    runs: list[list[int]] = []
    for z in sections:
        if runs and z == runs[-1][-1] + 1:
            runs[-1].append(z)
        else:
            runs.append([z])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def places(folder: Path, split: Split) -> Split:
    """Turn numbers in file names into places in a folder that lacks some sections."""
    numbers = sorted(int(path.stem) for path in folder.glob("*.png"))

    def place(wanted: Iterable[int]) -> tuple[int, ...]:
        return tuple(numbers.index(z) for z in wanted)

    return Split(place(split.training), place(split.validation), place(split.held_out))


_FIB25 = (
    "Takemura et al.: Synaptic circuits and their variations within different columns "
    "in the visual system of Drosophila. PNAS 112(44): 13711-13716 (2015)"
)

_KASTHURI = (
    "Kasthuri et al.: Saturated Reconstruction of a Volume of Neocortex. Cell "
    "162(3):648-661 (2015); SNEMI3D challenge"
)

_ALL = (
    Data(
        key="isbi2012",
        name="ISBI 2012 training stack",
        images="isbi2012/images",
        labels="isbi2012/labels",
        meaning="inside",
        voxel_size_nm=(50, 4, 4),
        # from either half of the stack, since their noise differs
        split=Split(
            training=tuple(range(9, 22)),
            validation=(4, 5, 25),
            held_out=(0, 1, 2, 27, 28, 29),
        ),
        licence="none stated",
        citation="Arganda-Carreras et al.: Crowdsourcing the creation of image "
        "segmentation algorithms for connectomics. Frontiers in Neuroanatomy 9:142 "
        "(2015); data by Cardona et al., PLoS Biology 8(10): e1000502 (2010)",
    ),
    Data(
        key="vnc",
        name="Segmented anisotropic ssTEM dataset of neural tissue, stack 1",
        images="vnc/raw.tif",
        labels="vnc/membranes.tif",
        meaning="membrane",
        voxel_size_nm=(50, 4.6, 4.6),
        split=Split(training=tuple(range(7)), validation=(10,), held_out=(11, 12, 13)),
        licence="CC BY-NC-SA 3.0",
        citation="Gerhard, Funke, Martel, Cardona, Fetter: Segmented anisotropic ssTEM "
        "dataset of neural tissue. figshare (2013), doi:10.6084/m9.figshare.856713",
    ),
    Data(
        key="cortex_ac4",
        name="SNEMI3D training volume (AC4), mouse cortex",
        images="cortex_ac4/raw_00-29.tif",
        labels="cortex_ac4/ids_00-29.tif",
        meaning="cells",
        voxel_size_nm=(30, 6, 6),
        split=Split(
            training=tuple(range(14)), validation=(24,), held_out=tuple(range(25, 30))
        ),
        licence="none stated",
        citation=_KASTHURI,
        share=3,
        unlabelled_beyond=6,
    ),
    # ten sections after those that are held out above
    Data(
        key="cortex_ac4_30",
        name="SNEMI3D training volume (AC4), mouse cortex, sections 30-64",
        images="cortex_ac4/raw_30-64.tif",
        labels="cortex_ac4/ids_30-64.tif",
        meaning="cells",
        voxel_size_nm=(30, 6, 6),
        split=Split(training=tuple(range(10, 35))),
        licence="none stated",
        citation=_KASTHURI,
        share=3,
        unlabelled_beyond=6,
    ),
    Data(
        key="fib25",
        name="FIB-25, fly optic medulla",
        images="fib25/ts2_raw_150-249.tif",
        labels="fib25/ts2_ids_150-249.tif",
        meaning="cells",
        voxel_size_nm=(10, 10, 10),
        split=Split(
            training=tuple(range(75)),
            validation=(85, 88),
            held_out=tuple(range(90, 100)),
        ),
        licence="CC ShareAlike",
        citation=_FIB25,
        share=2,
    ),
    # as a volume: what is held out is another file, sections 110-149
    Data(
        key="fib25_isotropic",
        name="FIB-25, fly optic medulla, sections 150-249",
        images="fib25/ts2_raw_150-249.tif",
        labels="fib25/ts2_ids_150-249.tif",
        meaning="cells",
        voxel_size_nm=(10, 10, 10),
        split=Split(training=tuple(range(84)), validation=(88, 92, 96)),
        licence="CC ShareAlike",
        citation=_FIB25,
        views=3,
    ),
    # all that is there, for weights whose recipe was scored on the split above
    Data(
        key="fib25_isotropic_all",
        name="FIB-25, fly optic medulla, sections 110-249",
        images="fib25/ts2_raw_150-249.tif",
        labels="fib25/ts2_ids_150-249.tif",
        meaning="cells",
        voxel_size_nm=(10, 10, 10),
        split=Split(training=tuple(range(140))),
        licence="CC ShareAlike",
        citation=_FIB25,
        views=3,
        before=("fib25/ts2_raw_110-149.tif", "fib25/ts2_ids_110-149.tif"),
    ),
)

DATA = {data.key: data for data in _ALL}
