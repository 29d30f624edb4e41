"""`emseg project`: what a project folder holds, and two people's work as one."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter
from numpy.typing import NDArray

from napari_emseg.cli.options import InputOptions, Json
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.printing import print_json, print_line, print_table
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.regions import Region
from napari_emseg.models.weights import list_weights, own_folder
from napari_emseg.project.merge_projects import Conflict, Merged, Prefer, iter_merge
from napari_emseg.project.project import Project
from napari_emseg.project.source import StackNotFoundError, find_source
from napari_emseg.proofreading.edits import Name

SHOWN = 20
"""Conflicts in the table; --json has them all."""

app = App(
    name="project",
    help="Make and show project folders, and merge two people's.",
    help_epilogue="Example: emseg project new demo-output/em.tif vnc.emseg",
)

app.command(
    "napari_emseg.cli.project:export_training",
    name="export-training",
    help="Write what was corrected and reviewed as files to train on elsewhere.",
    help_epilogue="Example: emseg project export-training vnc.emseg vnc-training",
)

Folder = Annotated[Path, Parameter(help="A project's folder, NAME.emseg.")]


@app.command(help_epilogue="Example: emseg project new demo-output/em.tif vnc.emseg")
def new(
    input: str,  # noqa: A002 - the word on the command line
    output: Path,
    /,
    *,
    author: Annotated[str, Parameter(help="Who makes it.")] = "",
    json: Json = False,
    source: InputOptions = InputOptions(),  # noqa: B008
) -> None:
    """Make an empty project for a stack, to be opened in napari.

    Parameters
    ----------
    input
        The stack; the project refers to it and doesn't copy it.
    output
        The project to make: NAME.emseg; the ending may be left out.
    """
    stack = source.open(input)
    check_outputs(output, stacks=[stack])
    with Project.create(output, stack, author=author) as made:
        facts = _facts(made)
    if json:
        print_json(facts)
    else:
        print_line(f"{made.path}: a project on {stack.name}")


@app.command(help_epilogue="Example: emseg project show vnc.emseg")
def show(project: Folder, /, *, json: Json = False) -> None:
    """Show a project: its stack, how much is corrected, by whom, and its weights."""
    with Project(project, read_only=True) as opened:
        facts = _facts(opened)
    if json:
        print_json(facts)
        return
    for name, value in _words(facts):
        print_line(f"{name:<17}{value}")
    if facts["weights"]:
        print_line("")
        rows = [
            (w["name"], w["parent"] or "–", w["sha256"][:12]) for w in facts["weights"]
        ]
        print_table(("weights", "made from", "checksum"), rows)


@app.command(
    help_epilogue="Example: emseg project merge ada.emseg ben.emseg both.emseg"
)
def merge(
    first: Folder,
    second: Folder,
    output: Path,
    /,
    *,
    prefer: Annotated[
        Prefer, Parameter(help="Whose opinion counts where both have one and differ.")
    ] = "none",
    json: Json = False,
) -> None:
    """Unite two people's corrections of one stack, and list where they disagree.

    Cells of a section are the first's, unless only the second has changed or reviewed
    them. Where both have an opinion on a pixel and they differ, the result has none,
    unless --prefer says whose counts.

    Parameters
    ----------
    output
        The project to make: NAME.emseg.
    """
    check_outputs(output, files=[first, second])
    with Project(first, read_only=True) as a, Project(second, read_only=True) as b:
        merged = run_with_progress(iter_merge(a, b, output, prefer=prefer))
    if json:
        print_json(_record(merged))
    else:
        _print(merged)


def _facts(project: Project) -> dict[str, Any]:
    source = project.info.source
    try:
        place: str | None = str(find_source(source, project.path))
    except StackNotFoundError:
        place = None
    edits = project.edits()
    depth = source.shape[0]
    pixels = [int((project.section("corrections", z) > 0).sum()) for z in range(depth)]
    names = {w.sha256: w.path.stem for w in project.lineage()}
    return {
        "project": str(project.path),
        "source": {"name": source.name, "path": place, "shape": list(source.shape)},
        "voxel_size_nm": source.voxel_size_nm,
        "corrected_pixels": sum(pixels),
        "corrected_sections": sum(n > 0 for n in pixels),
        "reviewed": sorted(project.review.named("reviewed")),
        "excluded": sorted(project.review.named("excluded")),
        "locked": sorted(project.locked),
        "edits": len(edits),
        "authors": sorted({edit.author for edit in edits if edit.author}),
        "latest": edits[-1].time.isoformat() if edits else None,
        "chosen": _chosen(project),
        "weights": [
            {
                "name": w.path.stem,
                "sha256": w.sha256,
                "parent": names.get(
                    w.card.parent_sha256 or "", (w.card.parent_sha256 or "")[:12]
                ),
            }
            for w in project.lineage()
        ],
    }


def _chosen(project: Project) -> dict[str, str | None]:
    """Say in words which weights and classifier of edges runs go by."""
    info = project.info
    known = [*project.lineage(), *list_weights(own_folder()).values()]
    found = [w for w in known if w.card.name == info.weights]
    weights = info.weights
    if weights and info.weights_sha256 not in {w.sha256 for w in found}:
        weights += ", of another version" if found else ", not found"
    try:
        classifier = project.edges()
        edges = None if classifier is None else classifier.name
    except (OSError, ValueError):
        edges = "can't be read; the usual one is used until its file is put back"
    return {"weights": weights, "edge classifier": edges}


def _words(facts: dict[str, Any]) -> list[tuple[str, str]]:
    source = facts["source"]
    z, y, x = source["shape"]
    where = source["path"] or "not found; napari asks for it when the project is opened"
    people = ", ".join(facts["authors"]) or "nobody by name"
    corrected = (
        f"{facts['corrected_pixels']:,} px in {facts['corrected_sections']} sections"
    )
    done = f"{len(facts['reviewed'])} reviewed, {len(facts['excluded'])} excluded"
    return [
        ("stack", f"{source['name']}: {z} sections of {y} × {x} px (y × x)"),
        ("at", where),
        ("sections", f"{done}, of {z}"),
        ("corrected", corrected),
        ("locked", f"{len(facts['locked'])} cells"),
        ("edits", f"{facts['edits']}, by {people}; latest {facts['latest'] or '–'}"),
        *((name, what) for name, what in facts["chosen"].items() if what),
    ]


def _record(merged: Merged) -> dict[str, Any]:
    return {
        "output": str(merged.path),
        "only_first_px": merged.corrections[0],
        "only_second_px": merged.corrections[1],
        "cells_of_second": list(merged.cells),
        "conflicts": [
            {
                "kind": c.kind,
                "z": c.z,
                "area": None if c.area is None else _corners(c),
                "pixels": c.pixels,
                "words": c.words,
            }
            for c in merged.conflicts
        ],
    }


def _print(merged: Merged) -> None:
    a, b = merged.corrections
    print_line(f"{merged.path}: {a:,} px from the first alone, {b:,} from the second")
    n = len(merged.conflicts)
    print_line(f"{n} conflict{'s' * (n != 1)}")
    rows = [
        (str(c.z), c.kind, _place(c), str(c.pixels), c.words)
        for c in merged.conflicts[:SHOWN]
    ]
    if rows:
        print_table(("section", "of", "rows, columns", "px", ""), rows)
    if n > SHOWN:
        print_line(f"and {n - SHOWN} more; --json lists them all")


def _corners(conflict: Conflict) -> list[int]:
    if conflict.area is None:
        return []
    rows, columns = conflict.area
    return [rows.start, rows.stop, columns.start, columns.stop]


def _place(conflict: Conflict) -> str:
    corners = _corners(conflict)
    return "{}:{}, {}:{}".format(*corners) if corners else "whole"


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
