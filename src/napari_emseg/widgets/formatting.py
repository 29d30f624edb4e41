"""What panels say: stacks, cards, sizes and times in words. No Qt."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from napari_emseg.core.card import Card, DataSet
from napari_emseg.core.intensity import LARGE_UPSAMPLING, TOO_COARSE
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack, VoxelSize
from napari_emseg.inference import PredictionResult, throughput
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation import CellsResult
from napari_emseg.session.threshold_preview import CellsKept

if TYPE_CHECKING:
    from napari_emseg.widgets.jobs import Advance


def format_stack(stack: Stack) -> str:
    """Return e.g. `20 sections 1024² · 50 × 4.6 × 4.6 nm`."""
    z, y, x = stack.shape
    side = f"{y}²" if y == x else f"{y} × {x}"
    size = stack.voxel_size_nm
    voxel = "voxel size unknown" if size is None else f"{format_voxel_size(size)} nm"
    remarks = [f" · {remark}" for remark in stack.metadata.get("remarks", ())]
    return f"{format_sections(z)} {side} · {voxel}{''.join(remarks)}"


def format_voxel_size(size: VoxelSize) -> str:
    """Return e.g. `50 × 4.6 × 4.6`; `?` where z is unknown."""
    return " × ".join("?" if s is None else f"{s:g}" for s in size)


def parse_voxel_size(text: str) -> VoxelSize | None:
    """Return the voxel size that was typed; None for nothing.

    Raises
    ------
    ValueError
        If it is not three numbers, or one for all.
    """
    parts = text.lower().replace("nm", " ").replace("×", " ").replace("x", " ")
    parts = parts.replace(";", " ").replace(",", " ").split()
    if not parts:
        return None
    try:
        values = [None if p in ("?", "-") else float(p) for p in parts]
    except ValueError:
        values = []
    if len(values) == 1:
        values = values * 3
    if len(values) != 3 or values[1] is None or values[2] is None:
        msg = (
            f"{text!r} is no voxel size; type z × y × x in nm, e.g. 50 × 4.6 × 4.6, "
            "with ? for an unknown z"
        )
        raise ValueError(msg)
    return values[0], values[1], values[2]


def format_rescaling(stack: Stack, card: Card, *, rescale: bool) -> str:
    """Return e.g. `4.6 → 4 nm/px (1.15×)`."""
    wanted = card.pixel_size_nm
    if wanted is None:
        return "the weights take any voxel size"
    if stack.voxel_size_nm is None:
        return f"no voxel size given, used as it is (weights: {_pair(wanted)} nm/px)"
    given = stack.voxel_size_nm[1:]
    zoom = tuple(round(g / w, 2) for g, w in zip(given, wanted, strict=True))
    if all(abs(z - 1) < 0.02 for z in zoom):
        return f"{_pair(given)} nm/px, as the weights"
    if not rescale:
        return f"{_pair(given)} nm/px, not rescaled to {_pair(wanted)}"
    words = f"{_pair(given)} → {_pair(wanted)} nm/px ({_pair(zoom)}×)"
    return f"{words}, {TOO_COARSE}" if max(zoom) > LARGE_UPSAMPLING else words


def _pair(values: tuple[float, ...]) -> str:
    y, x = values
    return f"{y:g}" if y == x else f"{y:g} × {x:g}"


_OF_CELLS = "cells_"

_SCORES = {
    "v_rand": "V_Rand",
    "v_info": "V_Info",
}


def format_card(card: Card) -> str:
    """Return the line of a weights' card that one chooses by, as rich text."""
    facts = []
    if card.pixel_size_nm is not None:
        facts.append(f"{_pair(card.pixel_size_nm)} nm/px")
    if "cells_v_rand" in card.scores:
        score = card.scores["cells_v_rand"]
        facts.append(f"cells: <b>V_Rand {score:.3f}</b> held out")
    elif "v_rand" in card.scores:
        facts.append(f"<b>V_Rand {card.scores['v_rand']:.3f}</b> held out")
    if is_non_commercial(card.licence):
        facts.append("non-commercial")
    return " · ".join(facts)


def is_non_commercial(licence: str) -> bool:
    """Tell if a licence forbids commercial use, by its SPDX name or its words."""
    said = licence.lower()
    return "non-commercial" in said or "noncommercial" in said or "-nc" in said


def format_card_details(card: Card) -> str:
    """Return the rest of a weights' card as lines of rich text."""
    facts = [escape(card.architecture)]
    if card.parameters:
        facts.append(f"{card.parameters / 1e6:.1f} M parameters")
    lines = [" · ".join(facts)]
    if card.summary:
        lines.insert(0, escape(card.summary))
    scores = [
        f"{words} {card.scores[k]:.3f}"
        for k, words in _SCORES.items()
        if k in card.scores
    ]
    if scores:
        held_out = _data(card.held_out_data)
        of = "membranes: " if "cells_v_rand" in card.scores else ""
        lines.append(f"{of}{' · '.join(scores)} on held-out {held_out}")
    if card.training_data:
        lines.append(f"learnt from {_data(card.training_data)}")
    if card.licence:
        lines.append(f"licence: {escape(card.licence)}")
    return "<br>".join(lines)


def format_file(weights: Weights, settings: PredictSettings) -> str:
    """Return the size of a weights file and how fast it is, here or by its card."""
    parts = []
    if weights.path.is_file():
        parts.append(f"{weights.path.stat().st_size / 2**20:.1f} MiB")
    ms = throughput.known(weights, settings)
    if ms is None and settings.depth is None and weights.card.depths:
        deepest = settings.model_copy(update={"depth": max(weights.card.depths)})
        ms = throughput.known(weights, deepest)
    if ms is not None:
        parts.append(f"{ms / 1000:.2g} s per megapixel on this machine")
    else:
        parts += [
            f"{ms / 1000:.2g} s per megapixel on {device}, by the card"
            for device, ms in weights.card.ms_per_megapixel.items()
        ]
    return " · ".join(parts)


def _data(sets: tuple[DataSet, ...]) -> str:
    return escape("; ".join(d.words for d in sets)) or "data"


def format_result(result: object) -> str:
    """Return what a run gave, e.g. `6 sections in 5 s by openvino on cpu`."""
    if isinstance(result, PredictionResult):
        said = format_sections(len(result.sections))
        digits = 1 if result.seconds < 10 else 0
        where = f"by {result.runtime} on {result.device}"
        return f"{said} in {result.seconds:.{digits}f} s {where}"
    if isinstance(result, CellsResult):
        said = f"{result.count:,} cells in {format_sections(len(result.counts))}"
        return said + _format_kept(*result.constraints)
    if isinstance(result, CellsKept):
        said = f"{result.cells:,} cells in {format_sections(result.sections)}"
        return said + _format_kept(*result.constraints)
    return ""


def _format_kept(kept: int, said: int) -> str:
    """Say how many merges and splits in 3-D were kept; nothing if there are none."""
    if not said:
        return ""
    words = f"; {kept} of {said} merges and splits in 3-D kept"
    return words + (", undo brings the others back" if kept < said else "")


def format_sections(n: int) -> str:
    """Return e.g. `1 section`."""
    return f"{n} section{'s' * (n != 1)}"


def format_duration(seconds: float) -> str:
    """Return e.g. `3 s` or `2 min`."""
    if seconds < 0.95:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_millions(parameters: int) -> str:
    """Return a number of parameters, e.g. `0.51 M`."""
    m = parameters / 1e6
    return f"{m:.1f} M" if m >= 10 else f"{m:.2f} M" if m >= 0.1 else f"{m:.3f} M"


def format_variant(
    name: str, settings: Mapping[str, Any], depths: Collection[int] = ()
) -> str:
    """Return which network ran and how, e.g. `isbi2012-unetpp, depth 2`.

    `depths` are those that its card knows: no depth means the deepest.
    """
    depth = settings.get("depth") or max(depths, default=None)
    parts = [name]
    if depth is not None:
        parts.append(f"depth {depth}")
    if settings.get("heads") == "mean" and depth != 1:
        parts.append("mean of heads")
    if settings.get("tta"):
        parts.append("mirrors averaged")
    if settings.get("views") == 3:
        parts.append("three views")
    return ", ".join(parts)


def format_time_left(seconds: float | None) -> str:
    """Return e.g. `14 s left`; nothing while it can't be told."""
    if seconds is None:
        return ""
    if seconds < 1.5:
        return "1 s left"
    if seconds < 90:
        return f"{seconds:.0f} s left"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min left"
    return f"{seconds / 3600:.1f} h left"


def format_cell_size(
    voxels: int, size: VoxelSize | None, *, solid: bool
) -> tuple[str, str]:
    """Return the size of a cell and its unit: px, or µm² or µm³ where they are known.

    Parameters
    ----------
    solid
        It is a body through sections, and not a profile in one of them.
    """
    if size is None:
        return f"{voxels:,}", "px"
    z, y, x = size
    volume = solid and z is not None
    each = (z or 1) * y * x / 1e9 if volume else y * x / 1e6
    value = voxels * each
    return (
        f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}",
        "µm³" if volume else "µm²",
    )


def format_advance(advance: Advance, sections: int | None = None) -> str:
    """Return e.g. `3 of 20 sections · 14 s left`, or what is done beside sections.

    Parameters
    ----------
    sections
        How many there are, as long as the work itself didn't tell.
    """
    done, total = advance.done, advance.total
    if total and done >= total:
        return "Finishing"  # what follows the last unit takes its time, too
    what = advance.step[:1].upper() + advance.step[1:]
    of = advance.sections or sections
    if advance.view is not None:
        along, of_view, all_of_it = advance.view
        what = f"View along {along} · {of_view} of {all_of_it} tiles"
    elif advance.section is not None:
        now = advance.section
        what = f"{now} of {format_sections(of)}" if of else format_sections(now)
    elif total > 1:
        what = f"{what} · {done} of {total}"
    left = format_time_left(advance.seconds_left)
    return " · ".join(words for words in (what, left) if words)


_SCORE_WORDS = {"rand": "Rand", "vi": "VI", "iou": "IoU", "dice": "Dice"}


def format_score_name(name: str) -> str:
    """Return a score's name for readers: `v_rand_split` → `V_Rand split`."""
    if name.startswith(_OF_CELLS):
        return f"cells: {format_score_name(name.removeprefix(_OF_CELLS))}"
    for short, words in _SCORES.items():
        if name.startswith(short):
            return words + name.removeprefix(short).replace("_", " ")
    return " ".join(_SCORE_WORDS.get(part, part) for part in name.split("_"))
