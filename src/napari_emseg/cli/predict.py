"""`emseg predict`: an EM stack in, a file of membrane probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from napari_emseg.cli.options import (
    RUN,
    InputOptions,
    Json,
    OutputFormat,
    Overwrite,
    Region,
    ScopeOptions,
    Sections,
    Stored,
)
from napari_emseg.cli.outputs import OutputTarget, check_outputs, writing
from napari_emseg.cli.printing import print_json, print_line
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.weights import WeightsName, find_weights
from napari_emseg.core.card import Variant
from napari_emseg.core.records import Provenance
from napari_emseg.core.settings import PredictSettings
from napari_emseg.io.fingerprint import describe_sections
from napari_emseg.models.weights import DEFAULT_WEIGHTS, Weights

if TYPE_CHECKING:
    from napari_emseg.inference import PredictionResult


WAY = ("depth", "heads", "tta")
"""Settings that say in which way weights are run."""


def predict(
    input: str,  # noqa: A002 - the word on the command line
    output: Path,
    /,
    *,
    weights: WeightsName = DEFAULT_WEIGHTS,
    sections: Sections = None,
    roi: Region = None,
    format: OutputFormat = None,  # noqa: A002
    stored: Stored = "as is",
    overwrite: Overwrite = False,
    json: Json = False,
    settings: Annotated[
        PredictSettings, Parameter(name="*", group=RUN)
    ] = PredictSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
) -> int:
    """Predict the probability of membrane, in [0, 1].

    Reads section by section and writes section by section. A run that is stopped leaves
    its finished sections in a part beside OUTPUT. Sections that can't be read are 0 in
    it: the result is incomplete, and the exit code 1.

    Parameters
    ----------
    input
        TIFF, MRC, DM3/DM4, HDF5, OME-Zarr, npy, PNG, a folder or a glob of sections.
    output
        What to write: .tif, .zarr, .mrc or .h5; --format has more.
    """
    scope = ScopeOptions.of(source.open(input), sections, roi)
    place = OutputTarget(output, format, overwrite, stored=stored)
    chosen = find_weights(weights, settings)
    check_outputs(output, stacks=[scope.stack], files=[chosen.path])
    result = predict_to_file(scope, place, chosen, settings)
    if json:
        print_json({"output": str(output), "shape": scope.shape, **facts(result)})
    else:
        print_line(f"{output}: {size_words(scope.shape)}, {run_words(result)}")
    return int(bool(result.damaged))


def predict_to_file(
    scope: ScopeOptions,
    place: OutputTarget,
    weights: Weights,
    settings: PredictSettings,
) -> PredictionResult:
    """Predict and write, section by section, and show how it goes.

    Raises
    ------
    ValueError, OSError
        If the output can't be, or no section can be read.
    """
    from napari_emseg.inference import predict_stack

    settings, made = settled_run(scope, weights, settings)
    with writing(place.open(scope, np.float32, made)) as sink:
        result = run_with_progress(
            predict_stack(
                scope.stack,
                weights,
                settings=settings,
                sections=scope.sections,
                roi=scope.region,
                sink=sink,
            )
        )
        refuse_if_unreadable(result)
        sink.note_settings(precision_facts(result))
    return result


def precision_facts(result: PredictionResult) -> dict[str, Any]:
    """Return what a run computed in: for want of memory that changes on its way."""
    return {"precision": result.provenance.settings["precision"]}


def settled_run(
    scope: ScopeOptions,
    weights: Weights,
    settings: PredictSettings,
    sections: Sequence[int] | None = None,
    *,
    excluded: Sequence[int] = (),
) -> tuple[PredictSettings, Provenance]:
    """Settle the precision of a run; return its settings and how results are made.

    Parameters
    ----------
    sections
        Those of the scope by default.
    excluded
        Which aren't seen beside others.
    """
    from napari_emseg.inference import Predictor, provenance

    work = Predictor(weights).settle(
        scope.stack,
        settings,
        sections=scope.sections if sections is None else sections,
        roi=scope.region,
        excluded=excluded,
    )
    found = run_with_progress(work)
    made = provenance(
        scope.stack,
        weights,
        found.settings,
        precision=found.precision,
        reason=found.reason,
    )
    return found.settings, made


def refuse_if_unreadable(result: PredictionResult) -> None:
    """Raise an OSError if not a single section could be read."""
    if len(result.damaged) == len(result.sections):
        first = next(iter(result.damaged.values()))
        msg = f"no section could be read: {first}"
        raise OSError(msg)


def facts(result: PredictionResult) -> dict[str, Any]:
    """Return what a run says of itself, for JSON."""
    made = result.provenance
    return {
        "sections": list(result.sections),
        "state": "incomplete" if result.damaged else "done",
        "damaged": {str(z): reason for z, reason in result.damaged.items()},
        "blank": list(result.blank),
        **made_facts(made),
        "device": result.device,
        "runtime": result.runtime,
        "seconds": round(result.seconds, 3),
        "notes": list(result.notes),
    }


def made_facts(made: Provenance) -> dict[str, Any]:
    """Return how a result came to be, for JSON; of what isn't known nothing is said."""
    is_cells = made.kind == "cells"
    run = made.settings.get("predict", {}) if is_cells else made.settings
    found = {
        "weights": made.weights,
        "weights_sha256": made.weights_sha256,
        "threshold": made.threshold,
        **{name: run[name] for name in (*WAY, "views", "precision") if name in run},
    }
    if not is_cells:
        return found
    cells = made.settings.get("cells", {})
    return found | {
        "method": cells.get("method"),
        "linked": cells.get("link"),
        "through": cells.get("through"),
        "affinities": made.settings.get("affinities", []),
        "excluded": made.settings.get("excluded", []),
        "edges": made.settings.get("edges"),
        "edges_sha256": made.settings.get("edges_sha256"),
    }


def size_words(shape: tuple[int, int, int]) -> str:
    """Say how large a stack is."""
    z, y, x = shape
    return f"{z} section{'s' * (z != 1)} of {y} × {x} px"


def run_words(result: PredictionResult) -> str:
    """Say by what and how fast."""
    way = way_words(result.provenance.settings)
    by, precision = result.runtime, result.provenance.settings.get("precision")
    # float32 is what a run is in unless it says something else
    by += "" if precision in (None, "float32") else f", {precision}"
    made = f"{result.provenance.weights}{way} on {result.device} ({by})"
    return f"{made}, {result.seconds:.1f} s{unread_words(result.damaged)}"


def unread_words(damaged: Iterable[int]) -> str:
    """Say which sections a result lacks; nothing if it has all."""
    missing = describe_sections(damaged)
    return f"; incomplete: {missing} can't be read" if missing else ""


def way_words(settings: dict[str, Any]) -> str:
    """Say in which way weights were run, in brackets; nothing if as they are."""
    way = Variant(**{name: settings[name] for name in WAY if name in settings})
    words = [] if way == Variant() else [way.words]
    words += ["three views"] * (settings.get("views") == 3)
    return f" ({', '.join(words)})" if words else ""
