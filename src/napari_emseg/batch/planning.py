"""A job → its plan: inputs opened, settings settled, and what it will take."""

import shutil
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isqrt, prod
from pathlib import Path
from typing import Any, cast

from napari_emseg._installed import __version__
from napari_emseg.batch.completion_log import CompletionLog, stamp
from napari_emseg.batch.context import PROFILES, Context, FileRef
from napari_emseg.batch.inputs import Input, OpenInput, open_input
from napari_emseg.batch.job import (
    FORMAT,
    BatchConfig,
    Memory,
    edges_path,
    remembered,
    with_edges,
    without_edges,
)
from napari_emseg.batch.pipeline import InputPipeline
from napari_emseg.batch.publishing import newest
from napari_emseg.batch.records import Row
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.step import STEPS, results_of
from napari_emseg.core.errors import OtherPrecisionError, SettingError
from napari_emseg.core.memory import free_ram
from napari_emseg.core.records import Note, Provenance, Record
from napari_emseg.core.settings import Precision, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference.plan import choose_limits
from napari_emseg.inference.predictor import provenance
from napari_emseg.inference.scope import scope_of
from napari_emseg.inference.views import BAND
from napari_emseg.io.fingerprint import (
    FEW_FILES,
    SourceState,
    describe_change,
    source_state,
)
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import Network
from napari_emseg.segmentation import settle_through
from napari_emseg.segmentation.affinities import affinity_classes
from napari_emseg.segmentation.edge_classifier import EdgeClassifier, read_edges


class WholeSectionsError(SettingError, ValueError):
    """Sections are too large to be processed whole, as what is asked for needs.

    Parameters
    ----------
    whole
        The setting `whole` by which they are.
    """

    def __init__(self, message: str, whole: int) -> None:
        super().__init__(message)
        self.remedies = {"whole": whole}


class LockedCellsError(WholeSectionsError):
    """Locked cells in sections that are too large to be processed whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """An input that could be opened; by `made` its results are known again.

    `own_edges` is the classifier of its project, where its cells are found by that.
    """

    context: Context
    stack: Stack
    provenance: Provenance
    made: Memory
    first_id: int
    state: SourceState | None = None
    hand_state: str = ""
    own_edges: EdgeClassifier | None = None

    @property
    def fingerprint(self) -> str:
        """Of the input, and of what its project says of edges."""
        return self.made.inputs[self.context.given.name]

    def course(self, job: BatchConfig, ledger: CompletionLog) -> InputPipeline:
        """Return the way of this input."""
        facts = [self.fingerprint, self.context.sections, self.made.settings]
        if self.context.through != "sections":
            facts.append(self.context.through)  # `auto` goes by the voxel size, too
        if self.context.settings.cells != job.settings.cells:
            own = self.context.settings.cells.threshold  # that came with probabilities
            facts.append(f"threshold {own!r}")
        first = stamp(*facts)
        # the stamp of the input and its settings begins that of every part, so that a
        # change of either makes all parts unknown
        base = newest(self.context, job.out, ledger, first)
        names = (PROFILES, *(result.name for result in results_of(self.context)))
        begun = any(stamp(base, "made", name) in ledger for name in names)
        return InputPipeline(
            self.context,
            ledger,
            base,
            self.provenance,
            job.out,
            self.first_id,
            self.made.versions if begun else (self.made.version,),
        )

    def describe_change(self) -> str:
        """Say what has become of the input since it was planned; empty if nothing.

        It is opened and looked at anew.
        """
        words = ""
        if self.state is not None:
            words = describe_change(self.stack, self.state)
        if words:
            return words
        try:
            now = open_input(self.context.given)
        except (OSError, ValueError) as e:
            return str(e)
        if self.state is None:
            same = now.fingerprint == without_edges(self.fingerprint)
        else:  # files were compared, and may have been merely touched
            same = now.hand_state == self.hand_state
        return "" if same else f"{self.context.given.name} has changed meanwhile"

    def finals(self, out: Path) -> list[Path]:
        """Return where its results will be."""
        return [result.path(self.context, out) for result in results_of(self.context)]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a batch will do; rows that can't be opened say why and are passed over.

    `job` has its settings settled; `planned` is None for such rows; `before` is what an
    unfinished batch remembers that is gone on with.
    """

    job: BatchConfig
    rows: tuple[Row, ...]
    planned: tuple[Planned | None, ...]
    before: Memory | None = None

    @property
    def memory(self) -> Memory:
        """By what a later run knows that it may go on."""
        each = [p.made.inputs for p in self.planned if p is not None]
        inputs = {name: digits for some in each for name, digits in some.items()}
        return memory_of(self.job, inputs, self.before)


def memory_of(
    job: BatchConfig, inputs: dict[str, str], before: Memory | None = None
) -> Memory:
    """Return by what results of inputs are known again; `inputs` are fingerprints."""
    weights = job.weights
    now = Memory(
        format=FORMAT,
        version=__version__,
        weights=None if weights is None else weights.sha256,
        settings=facts_of(job),
        inputs=inputs,
        precision_reason=job.precision_reason,
    )
    return now if before is None else now.after(before)


def facts_of(job: BatchConfig) -> dict[str, object]:
    """Return the settings that results depend on."""
    everything = job.settings.model_dump(mode="json")
    # these change how fast, where or in what form results
    # come, and none of their values
    everything["predict"].pop("threads")
    if job.settings.predict.views == 1:
        everything["predict"].pop("views")  # as it was before there were more
    if not job.settings.finds_through:
        everything["cells"].pop("through")  # as it was before there were more ways
    elif job.edges is not None:
        everything["edges"] = job.edges.sha256
    flags = [step.flag for step in STEPS.values() if step.flag]
    for name in ("retries", "export", "output", *flags):
        everything.pop(name)
    everything["weights"] = None if job.weights is None else job.weights.sha256
    return everything


def plan_batch(job: BatchConfig, *, unsaved: Mapping[str, Stack] | None = None) -> Plan:
    """Open all inputs and settle what is left open.

    Parameters
    ----------
    unsaved
        Stacks of inputs that no file holds yet, by their names: enough for a forecast.

    Raises
    ------
    ValueError
        If weights are missing for EM.
    """
    if job.settings.need_weights and job.weights is None:
        msg = "membranes need weights"
        raise ValueError(msg)
    if not job.settings.need_weights:
        job = replace(job, weights=None)
    there = unsaved or {}
    opened = [
        OpenInput(there[given.name], None, "")
        if given.name in there
        else _opened(given)
        for given in job.inputs
    ]
    stacks = [o.stack for o in opened if isinstance(o, OpenInput)]
    before = remembered(job) if job.resume and not job.overwrite else None
    if stacks:
        tile = {"predict.tile"} if job.settings.predict.tile is None else set()
        settings = _settled(job, stacks, before)
        job = replace(job, settings=settings, settled=job.settled | tile)
    rows, planned = [], []
    for given, found in zip(job.inputs, opened, strict=True):
        row, plan = _row(job, given, found, before)
        rows.append(row)
        planned.append(plan)
    return Plan(job, tuple(rows), tuple(planned), before)


def iter_settle_precision(
    job: BatchConfig, finished: Memory | None = None
) -> Generator[Record, None, BatchConfig]:
    """Settle the precision of a batch, once and for all of it, on this machine.

    A batch that goes on, or is added to, keeps what it has. Otherwise `auto` is settled
    on the first input that can be opened, by the size of all; it is checked on each of
    the others when that is prepared.

    Parameters
    ----------
    finished
        By which an input is known that was finished before, where the batch goes on.

    Raises
    ------
    OtherPrecisionError
        If this machine can't compute in what is asked for.
    """
    predict = job.settings.predict
    if job.weights is None or not job.settings.need_weights:
        return job
    open_ = predict.precision == "auto"
    before = remembered(job) if job.resume and not job.overwrite else None
    if before is None and open_:
        before = finished
    if before is not None:
        kept = before.precision if open_ else predict.precision
        return _computing_in(job, kept, before.precision_reason)
    opened = [_opened(given) for given in job.inputs]
    there = [found for found in opened if isinstance(found, OpenInput)]
    if not there or predict.precision == "float32":
        return job
    from napari_emseg.inference import Predictor

    threads = predict.threads or job.where.threads
    first = there[0]
    work = Predictor(job.weights).settle(
        first.stack,
        predict.model_copy(update={"threads": threads}),
        share=prod(first.stack.shape) / sum(prod(o.stack.shape) for o in there),
        excluded=() if first.hand is None else first.hand.excluded,
    )
    try:
        choice = yield from work
    except OtherPrecisionError:
        raise
    except (OSError, ValueError):  # planning says what can't be run, and why
        return job
    yield from map(Note, choice.notes)
    return _computing_in(job, choice.settings.precision, choice.reason)


def _computing_in(job: BatchConfig, precision: Precision, reason: str) -> BatchConfig:
    asked = job.settings.predict
    settled = {"predict.precision"} if asked.precision == "auto" else set()
    predict = asked.model_copy(update={"precision": precision})
    settings = job.settings.model_copy(update={"predict": predict})
    return replace(
        job,
        settings=settings,
        precision_reason=reason,
        settled=job.settled | settled,
    )


def _opened(given: Input) -> OpenInput | Exception:
    try:
        return open_input(given)
    except (OSError, ValueError) as e:
        return e


def _row(
    job: BatchConfig,
    given: Input,
    found: OpenInput | Exception,
    before: Memory | None,
) -> tuple[Row, Planned | None]:
    row = Row(given.name, given.path)
    if isinstance(found, Exception):
        return _failed(row, found), None
    try:
        plan = _planned(job, given, found, before)
    except ValueError as e:
        return _failed(row, e), None
    c = plan.context
    remarks = (
        *found.stack.metadata.get("remarks", ()),
        *_through_words(job, c),
        *_edges_words(plan),
    )
    return replace(row, sections=len(c.sections), shape=c.shape, warnings=remarks), plan


def _failed(row: Row, error: Exception) -> Row:
    return replace(row, state="failed", warnings=(str(error),), error=error)


def _planned(
    job: BatchConfig, given: Input, found: OpenInput, before: Memory | None
) -> Planned:
    stack, weights = found.stack, job.weights
    sections = given.sections(stack)
    hand = found.hand
    excluded = frozenset[int]() if hand is None else hand.excluded
    through = _through(job, stack, len(sections))
    own = _own_edges(job, found) if through.get("through") == "graph" else None
    context = Context(
        given=given,
        folder=str(job.folder.absolute() / given.name),
        settings=job.settings if weights else _as_predicted(job.settings, stack),
        weights=None if weights is None else FileRef(str(weights.path), weights.sha256),
        sections=sections,
        shape=stack.shape[1:],
        voxel_size_nm=stack.voxel_size_nm,
        origin_nm=stack.corner_nm(sections[0], 0, 0),
        excluded=frozenset(k for k, z in enumerate(sections) if z in excluded),
        seen=source_state(stack, most=FEW_FILES),
        chosen=bool(job.precision_reason),
        **through,
        **_edges(job, own or job.edges, through),
    )
    if context.through != "sections" and not context.whole:
        msg = (
            f"cells through the stack of {given.name} need its sections of "
            f"{stack.shape[1]} × {stack.shape[2]} px to be processed whole"
        )
        raise WholeSectionsError(msg, _side(stack))
    if hand is not None and hand.locked and not context.whole:
        msg = (
            f"{given.name} has locked cells in sections of {stack.shape[1]} × "
            f"{stack.shape[2]} px, which must be processed whole"
        )
        raise LockedCellsError(msg, _side(stack))
    if weights is not None and job.settings.predict.views == 3 and not context.whole:
        msg = (
            f"three views of {given.name} need its sections of {stack.shape[1]} × "
            f"{stack.shape[2]} px to be processed whole"
        )
        raise WholeSectionsError(msg, _side(stack))
    if weights is None:
        made = _made_by_us(stack)
    else:
        scope_of(stack, weights.card, job.settings.predict)
        why = job.precision_reason
        made = provenance(stack, weights, job.settings.predict, reason=why)
    if job.recipe is not None:
        made = made.model_copy(update={"recipe": job.recipe})
    first_id = 1 if hand is None else hand.first_id
    state = source_state(stack)
    digits = with_edges(found.fingerprint, own)
    memory = memory_of(job, {given.name: digits}, before)
    return Planned(context, stack, made, memory, first_id, state, found.hand_state, own)


def _through(job: BatchConfig, stack: Stack, sections: int) -> dict[str, Any]:
    """Return what a context says of cells through the stack."""
    settings, weights = job.settings, job.weights
    if not settings.finds_through:
        return {}
    names = () if weights is None else affinity_classes(weights.card.classes)
    settled = settle_through(
        settings.cells, stack.voxel_size_nm, sections, affinities=bool(names)
    )
    if settled.through == "sections":
        return {}
    return {"through": settled.through, "affinities": names}


def _own_edges(job: BatchConfig, found: OpenInput) -> EdgeClassifier | None:
    """Return the classifier of edges of an input's project, unless one was chosen.

    Raises
    ------
    ValueError
        If it can't be read: others would give other cells.
    """
    if job.edges is not None or found.hand is None:
        return None
    try:
        return found.hand.project.edges()
    except (OSError, ValueError) as e:
        sha256 = found.hand.project.info.edges or ""
        with suppress(OSError, ValueError):  # a batch that goes on has a copy
            kept = read_edges(edges_path(job, sha256))
            if kept.sha256 == sha256:
                return kept
        msg = (
            f"the project's classifier of edges can't be read ({e}); put the file "
            "back, or choose a classifier for the batch"
        )
        raise ValueError(msg) from e


def _edges_words(plan: Planned) -> tuple[str, ...]:
    if plan.own_edges is None:
        return ()
    return (f"edges are weighed by the project's classifier: {plan.own_edges.name}",)


def _edges(
    job: BatchConfig, edges: EdgeClassifier | None, through: Mapping[str, object]
) -> dict[str, Any]:
    """Return what a context says of the classifier of edges, which the batch keeps."""
    if edges is None or through.get("through") != "graph":
        return {}
    path = edges_path(job, edges.sha256).absolute()
    return {"edges": FileRef(str(path), edges.sha256), "edges_name": edges.name}


def _through_words(job: BatchConfig, context: Context) -> tuple[str, ...]:
    """Say where cells aren't found in the way that one might expect."""
    if not job.settings.finds_through:
        return ()
    if len(context.sections) < 2:
        return ("cells are found section by section, since there is but one section",)
    if job.settings.cells.through == "auto" and context.voxel_size_nm is None:
        graph = context.through == "graph"
        way = "by one graph of all sections" if graph else "section by section"
        return (f"cells are found {way}, since its voxel size is unknown",)
    return ()


def _side(stack: Stack) -> int:
    """Return the side of a square that is as large as a section, rounded up."""
    return isqrt(stack.shape[1] * stack.shape[2] - 1) + 1


def _made_by_us(stack: Stack) -> Provenance:
    """Return how probabilities came to be.

    Raises
    ------
    ValueError
        If nothing tells that these are some.
    """
    made = Provenance.of(stack)
    if made is not None and made.kind == "membrane":
        return made
    if made is None and stack.dtype.kind == "f":
        return Provenance(kind="membrane", source=stack.source)
    what = f"holds {stack.dtype} values" if made is None else f"holds {made.kind}"
    msg = (
        f"{stack.name} {what}, not probabilities of membrane; begin with the step "
        "membranes if it is EM"
    )
    raise ValueError(msg)


def _as_predicted(settings: BatchSettings, stack: Stack) -> BatchSettings:
    """Take the threshold that probabilities came with, where none is asked for."""
    threshold, cells = _made_by_us(stack).threshold, settings.cells
    if threshold is None or "threshold" in cells.model_fields_set:
        return settings
    cells = cells.model_copy(update={"threshold": threshold})
    return settings.model_copy(update={"cells": cells})


def _settled(
    job: BatchConfig, stacks: list[Stack], before: Memory | None
) -> BatchSettings:
    """Fix what a run would choose by the free memory, or by the weights."""
    settings, weights = job.settings, job.weights
    if weights is None:
        return settings
    cells = settings.cells
    if "threshold" not in cells.model_fields_set:
        cells = cells.model_copy(update={"threshold": weights.card.threshold})
    predict = settings.predict
    # tiles are larger where more threads work on one
    if predict.threads is None:
        predict = predict.model_copy(update={"threads": job.where.threads})
    if predict.tile is None:
        # a batch that goes on keeps its tile, however much memory is free by now
        tile = None if before is None else _tile_before(before)
        tile = tile or max(_tile(stack, weights, predict) for stack in stacks)
        predict = predict.model_copy(update={"tile": tile})
    return settings.model_copy(update={"cells": cells, "predict": predict})


def _tile_before(memory: Memory) -> int | None:
    """Return the tile of a batch that is gone on with, if it remembers one."""
    predict = memory.settings.get("predict")
    tile = predict.get("tile") if isinstance(predict, dict) else None
    return tile if isinstance(tile, int) else None


def _tile(stack: Stack, weights: Weights, settings: PredictSettings) -> int:
    """Return the side of a window of a stack, for all parts and for later runs."""
    part = weights.at(settings.depth, settings.heads)
    card = part.card
    geometry, per_pixel = card.geometry, card.bytes_per_pixel
    if geometry is None or per_pixel is None:
        network = cast("Network", part.network())
        geometry, per_pixel = network.geometry, network.bytes_per_pixel
    smallest = TilePlan.smallest_tile(geometry)
    try:
        scope = scope_of(stack, card, settings)
    except ValueError:  # its row says so, and the others can be done
        return smallest
    gpu = settings.device not in ("auto", "cpu") or bool(shutil.which("nvidia-smi"))
    limits = choose_limits(
        scope, geometry, settings, bytes_per_pixel=per_pixel, free=free_ram(), gpu=gpu
    )
    side = limits.tile or max(limits.plan(scope, geometry).window_shape)
    if settings.views == 3:
        # planes are as high as a band with its halos
        side = max(side, BAND + 2 * (geometry.halo + geometry.stride))
    # a picture may be smaller than any tile
    return max(side, smallest)
