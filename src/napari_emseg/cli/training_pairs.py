"""`emseg project export-training`: what a project knows, as files to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.cli.options import Json
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.printing import print_json, print_line
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.regions import Region
from napari_emseg.project.project import Project
from napari_emseg.proofreading.edits import Name


def export_training(project: Path, output: Path, /, *, json: Json = False) -> None:
    """Write pictures, labels and masks of what was corrected and reviewed.

    For each section of which something is known: the grey values, the labels (1
    membrane, 2 inside, k + 1 class k; 0 unknown) and a mask of what counts.

    Parameters
    ----------
    project
        A project's folder, NAME.emseg.
    output
        The folder to make.
    """
    from napari_emseg.training.corrections import TrainingSet, should_invert
    from napari_emseg.training.pairs import exporting_pairs

    with Project(project, read_only=True) as opened:
        stack = opened.open_source().stack
        check_outputs(output, stacks=[stack], files=[project])
        review = opened.review
        whole = sorted(review.named("reviewed"))
        regions = [Region.whole(z, stack.shape[1:]) for z in whole]
        regions += [r for r in review.reviewed_regions if r.z not in whole]
        known = TrainingSet.from_corrections(
            stack,
            _Saved(opened, "corrections"),
            reviewed=regions,
            result=_Saved(opened, "cells"),
            excluded=review.named("excluded"),
            invert=should_invert(stack, opened.info.invert),
        )
        work = exporting_pairs(known, output, classes=opened.info.classes)
        written = run_with_progress(work)
    if json:
        facts = {"output": str(written), "pixels": known.usable.pixels}
        print_json(facts)
    else:
        print_line(f"{written}: {known.words}")


class _Saved:
    """Sections of a project's array as they are saved."""

    def __init__(self, project: Project, name: Name) -> None:
        self.shape = project.info.source.shape
        self.dtype = np.dtype(np.uint8 if name == "corrections" else np.uint32)
        self._project = project
        self._name = name

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index by section, or section, rows and columns."""
        z, *area = key if isinstance(key, tuple) else (key,)
        section = self._project.section(self._name, int(z))
        return np.asarray(section[tuple(area)])
