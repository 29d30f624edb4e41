"""Weights and corrections in, better weights with their lineage out."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from napari_emseg.core.atomic import private_part, release
from napari_emseg.core.card import Card
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.io.fingerprint import SourceState, raise_if_changed, source_states
from napari_emseg.models.forward import to_probabilities
from napari_emseg.models.parts import (
    coarse_decoder,
    part_of,
    set_prior_bias,
    untrained_layers,
    with_classes,
)
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import Network, affinities_of
from napari_emseg.training.card import card_of_candidate
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.crops import RehearsingLoss
from napari_emseg.training.losses import LOSSES, with_affinities
from napari_emseg.training.measures import Comparison
from napari_emseg.training.model_comparison import compare_predictors
from napari_emseg.training.patches import CorrectionPatches, Patches, rehearsed
from napari_emseg.training.trainer import Trainer, TrainResult, middle
from napari_emseg.training.training_data import TrainingData, prepare
from napari_emseg.training.validation import (
    LEARNT_COUNTS,
    CropValidation,
    KnownCells,
    choose_threshold,
    likely_threshold,
)

STEPS = 60

RATE = 0.05

GAIN_STAYS = 0.5
"""Share of what was gained on held-out corrections, in log-likelihood, that must stay
when something is taken back for old tissue. Of U-Nets on cortex 0.7 to 0.8 do."""


def fit_new_class_head(
    network: nn.Module,
    layers: Iterable[nn.Module],
    patches: Patches,
    settings: FinetuneSettings,
    n_old: int,
) -> Generator[Progress, None, None]:
    """Train the rows from `n_old` of some layers; all else stays as it is.

    Parameters
    ----------
    layers
        Those that give the logits.
    patches
        The last ones of a batch may be rehearsal, of which new classes learn nothing.
    """
    kind = cast("Network", network)
    network.eval()
    network.requires_grad_(False)
    rows = [p for layer in layers for p in layer.parameters()]
    # rows of old and new classes are one parameter, so the
    # gradient is cut and not the rows
    hook = _only_new(n_old)
    hooks = [p.requires_grad_().register_hook(hook) for p in rows]  # type: ignore[no-untyped-call]
    # a high rate: one layer on fixed features is logistic regression, which is convex
    optimiser = torch.optim.Adam(rows, lr=RATE)
    for step in range(STEPS):
        image, target, weight = patches.batch(step)
        n = len(image) - rehearsed(settings)
        outputs = kind.supervised(image[:n])
        target, weight = (middle(t[:n], outputs[0]) for t in (target, weight))
        # of affinities nothing is learnt here
        loss = with_affinities(LOSSES[settings.loss], len(affinities_of(network)), 0)
        losses = [loss(each, target, weight, kind.activation) for each in outputs]
        optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield Progress("new classes", step + 1, STEPS)
    for each in hooks:
        each.remove()


def _only_new(n_old: int) -> Callable[[Tensor], Tensor]:
    """Return what sets the gradient of old rows to 0."""

    def hook(gradient: Tensor) -> Tensor:
        new = torch.arange(len(gradient), device=gradient.device) >= n_old
        return gradient * new.view(-1, *[1] * (gradient.ndim - 1))

    return hook


@dataclass(frozen=True, slots=True)
class Finetuned:
    """What a round of learning gave.

    `comparison` says whether the candidate is better than what it was made from.
    """

    weights: Weights
    comparison: Comparison


def finetune_weights(
    parent: Weights,
    sets: Sequence[TrainingSet],
    output: Path,
    *,
    settings: FinetuneSettings | None = None,
    device: torch.device | str = "cpu",
    predict: PredictSettings | None = None,
    new_classes: Sequence[str] = (),
    sources: Iterable[tuple[Stack, SourceState]] | None = None,
    stop: Callable[[], bool] = bool,
) -> Generator[Record, None, Finetuned]:
    """Learn from corrections; yields what the trainer yields, and `Progress` before.

    A checkpoint lies beside `output` until the end. When the generator is closed, the
    best weights so far are written to `output`, and the checkpoint stays: the same call
    goes on from it. After new corrections it begins anew.

    Parameters
    ----------
    parent
        Weights to begin with, of any architecture.
    sets
        What is known of one or more stacks.
    output
        The weights file to write. Its card names the parent, the data and the scores.
    device
        Where to train; `settings.device` has been resolved by the caller.
    predict
        How weights are run: what they show in reviewed regions, and what the candidate
        is compared by. On `device` by default.
    new_classes
        Names of classes that the parent doesn't have, in the order of their codes.
    sources
        What the files of images and labels were like before they were read, see
        `io.fingerprint.source_states`; by default those of images now.
    stop
        Asked after every step: if True, training ends there, and the best so far is
        compared. The checkpoint stays in that case, too.

    Raises
    ------
    ValueError
        If nothing is corrected, corrections have a class without a name, a name is
        taken, or the loss stops being a number.
    SourceChangedError
        If files that were read changed meanwhile; no weights are written then.
    OSError
        If a file can't be read or written.
    """
    settings = settings or FinetuneSettings()
    if sources is None:
        sources = source_states(*(known.stack for known in sets))
    predict = predict or PredictSettings(device=str(device))
    run = _Run(
        parent, output, settings, torch.device(device), predict, tuple(new_classes)
    )
    lesson = yield from prepare(run.shown, sets, settings, run.classes)
    trainer = yield from run.begin(lesson, stop)
    threshold: float | None = None
    try:
        result = run.kept((yield from trainer.run()), lesson)
        threshold = yield from run.threshold(result, lesson)
        if lesson.settings.steps and result.step == 0:
            yield Note("no step was better on held-out corrections: weights stay as is")
        comparison = yield from run.compare(result, lesson, threshold)
    # closed from outside, e.g. Cancel: what is good so far isn't thrown away
    except GeneratorExit:
        if trainer.best.step > 0:
            run.save(run.kept(trainer.best, lesson), lesson, threshold)
        raise
    raise_if_changed(sources)
    weights = run.save(result, lesson, threshold, comparison)
    if not trainer.stopped:
        run.checkpoint.unlink(missing_ok=True)
    return Finetuned(weights, comparison)


@dataclass
class _Run:
    """What stays the same during a round."""

    parent: Weights
    output: Path
    settings: FinetuneSettings
    device: torch.device
    predict: PredictSettings
    new_classes: tuple[str, ...]
    classes: tuple[str, ...] = field(init=False)
    network: nn.Module = field(init=False)
    shown: RegionPredictor = field(init=False)
    validation: CropValidation | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.shown = RegionPredictor(self.parent, self.predict)
        card = self.parent.card
        taken = [name for name in self.new_classes if name in card.classes]
        if taken or len(set(self.new_classes)) < len(self.new_classes):
            name = (taken or list(self.new_classes))[0]
            msg = f"{card.name} has a class {name!r} already; choose another name"
            raise ValueError(msg)
        # affinities are no classes of pixels, and come last whatever else is known
        self.classes = (*card.pixel_classes, *self.new_classes)
        network = self.parent.network()
        if self.new_classes:
            network = with_classes(
                network, card.architecture, card.config, len(self.classes)
            )
        self.network = network.to(self.device)

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished round is kept."""
        return self.output.with_name(f"{self.output.stem}.checkpoint")

    @property
    def config(self) -> dict[str, object]:
        """That rebuilds the candidate's network."""
        config = self.parent.card.config
        if not self.new_classes:
            return config
        return {**config, "n_classes": len(self.classes)}

    def patches(self, lesson: TrainingData) -> CorrectionPatches:
        """Return what the network sees."""
        return CorrectionPatches(
            lesson.crops,
            lesson.settings,
            device=self.device,
            rehearsal=lesson.rehearsal,
            trim=cast("Network", self.network).geometry.trim,
            affinities=affinities_of(self.network),
            opinion=self.opinion,
        )

    @cached_property
    def opinion(self) -> Callable[[Tensor], Tensor] | None:
        """What the parent says of affinities in windows; None if it says nothing."""
        n = len(self.parent.card.affinities)
        if n == 0:
            return None
        before = self.parent.network().to(self.device)

        def say(windows: Tensor) -> Tensor:
            with torch.no_grad():
                return to_probabilities(before(windows), before)[:, -n:]

        return say

    def meet_new_classes(self, lesson: TrainingData) -> Generator[Record, None, None]:
        """Let the head find new classes by what the network sees already."""
        n_old, settings = len(self.parent.card.pixel_classes), lesson.settings
        layers = untrained_layers(self.network, n_old)
        set_prior_bias(layers, n_old, lesson.usual_logits[n_old:])
        yield from fit_new_class_head(
            self.network, layers, self.patches(lesson), settings, n_old
        )

    def trainer(self, lesson: TrainingData, stop: Callable[[], bool]) -> Trainer:
        """Return what trains the network on what is known."""
        settings, patches = lesson.settings, self.patches(lesson)
        card = self.parent.card
        loss = RehearsingLoss(
            LOSSES[settings.loss],
            patches.rehearsed,
            len(card.pixel_classes),
            settings.rehearsal,
        )
        threshold = card.threshold
        if lesson.validation:
            self.validation = CropValidation(
                lesson.validation, threshold, likely_threshold(threshold)
            )
        return Trainer(
            self.network,
            patches,
            settings,
            validation=self.validation,
            loss=with_affinities(loss, len(card.affinities), settings.affinity_weight),
            frozen=freeze(self.network, settings),
            patience=settings.patience or None,
            of=f"{self.parent.sha256} {lesson.fingerprint} {self.new_classes}",
            checkpoint=self.checkpoint,
            stop=stop,
        )

    def begin(
        self, lesson: TrainingData, stop: Callable[[], bool]
    ) -> Generator[Record, None, Trainer]:
        """Return a trainer that begins, or goes on from a checkpoint of this round."""
        trainer = self.trainer(lesson, stop)
        resumed = yield from self.resume(trainer)
        if self.new_classes and lesson.settings.steps and not resumed:
            yield from self.meet_new_classes(lesson)
            trainer = self.trainer(lesson, stop)
        if self.validation is None:
            yield Note("too few corrections to hold some out: the last step is taken")
        # the parent's own score is the one to beat: if no step does, its weights stay
        elif not trainer.best.scores:
            trainer.best.scores = self.validation(self.network)
        else:
            best = deepcopy(self.network)
            best.load_state_dict(trainer.best.state)
            self.validation.go_on(best, trainer.best.scores["score"])
        return trainer

    def resume(self, trainer: Trainer) -> Generator[Note, None, bool]:
        """Go on from the checkpoint; tell if it was there, whole and of this round."""
        try:
            yield from trainer.resume()
        except ValueError:
            self.checkpoint.unlink()
            yield Note("corrections, weights or settings changed: training begins anew")
        return self.checkpoint.is_file()

    def kept(self, result: TrainResult, lesson: TrainingData) -> TrainResult:
        """Take some of what was learnt back, so that less of old tissue is forgotten.

        The decoder's coarse levels get the parent's numbers, and all others a share of
        them (WiSE-FT, Wortsman et al. 2022). All of the network learns: left out of
        learning, the place of coarse levels is taken by what the other levels learn,
        and old tissue is forgotten as before. Where most of what was gained on held-out
        corrections would go, or classes are known that may need those levels, it isn't
        done.
        """
        # measured of U-Nets; of CE-Net these levels hold what is new, and forget little
        fits = self.parent.card.architecture == "unet" and len(self.classes) == 2
        if not fits or result.step == 0:
            return result
        # less of it before none
        for share in dict.fromkeys((lesson.settings.keep_old, 0.0)):
            state = self.taken_back(result.state, lesson.settings, share)
            if self.likely(state, result):
                return replace(result, state=state)
        return result

    def taken_back(
        self, learnt: dict[str, Tensor], settings: FinetuneSettings, share: float
    ) -> dict[str, Tensor]:
        """Return numbers of which a share is the parent's, and coarse levels all."""
        network = self.parent.network()
        old = network.state_dict()
        kept = coarse_decoder(network, settings.patch) if settings.keep_coarse else []
        coarse = {name for name, module in network.named_modules() if module in kept}
        state = {}
        for name, value in learnt.items():
            before = old[name].to(value)
            if name.rpartition(".")[0] in coarse:
                state[name] = before
            else:
                whole = not value.is_floating_point()
                state[name] = value if whole else value.lerp(before, share)
        return state

    def likely(self, state: dict[str, Tensor], result: TrainResult) -> bool:
        """Tell if enough of what was gained on held-out corrections stays."""
        if self.validation is None:
            return True
        network = self.parent.network().to(self.device)
        before = self.validation.likelihood(network)
        network.load_state_dict(state)
        # of older checkpoints it was the score
        learnt = result.scores.get("likelihood", result.scores["score"])
        stays = self.validation.likelihood(network) - before
        return stays >= GAIN_STAYS * (learnt - before)

    def threshold(
        self, result: TrainResult, lesson: TrainingData
    ) -> Generator[Record, None, float]:
        """Choose the one that gives the best cells; it stays if nothing was learnt."""
        before = self.parent.card.threshold
        if result.step == 0:
            return before
        by = [
            KnownCells(known, opinions, counts)
            for known, taught in zip(lesson.sets, lesson.taught, strict=True)
            for opinions, counts in zip(taught, (LEARNT_COUNTS, 1.0), strict=True)
        ]
        with self.unnamed(result, lesson) as weights:
            predictor = RegionPredictor(weights, self.predict)
            return (
                yield from choose_threshold(predictor, by, likely_threshold(before))
            )

    def compare(
        self, result: TrainResult, lesson: TrainingData, threshold: float
    ) -> Generator[Record, None, Comparison]:
        """Compare the candidate with what it was made from."""
        with self.unnamed(result, lesson, threshold) as weights:
            return (
                yield from compare_predictors(
                    self.shown,
                    RegionPredictor(weights, self.predict),
                    lesson.sets,
                    held_out=lesson.held_out,
                )
            )

    @contextmanager
    def unnamed(
        self, result: TrainResult, lesson: TrainingData, threshold: float | None = None
    ) -> Iterator[Weights]:
        """Write the candidate under a private name, for as long as it is measured."""
        part = private_part(self.output)
        try:
            yield self.save(result, lesson, threshold, path=part)
        finally:
            part.unlink(missing_ok=True)
            release(part)

    def save(
        self,
        result: TrainResult,
        lesson: TrainingData,
        threshold: float | None = None,
        comparison: Comparison | None = None,
        *,
        path: Path | None = None,
    ) -> Weights:
        """Write the weights with their card; by default the threshold stays."""
        about = self.parent.card.model_copy(
            update={
                "name": self.output.stem,
                "config": self.config,
                "classes": (*self.classes, *self.parent.card.affinity_classes),
                "parent_sha256": self.parent.sha256,
                "threshold": threshold or self.parent.card.threshold,
            }
        )
        card: Card = card_of_candidate(
            about, result, lesson, self.device, comparison, parent=self.parent.card
        )
        return save_weights(path or self.output, result.state, card, half=False)


def freeze(network: nn.Module, settings: FinetuneSettings) -> list[nn.Module]:
    """Let only the wanted parts learn; return modules whose statistics stay."""
    wanted = {
        "all": ("encoder", "decoder", "head"),
        "decoder": ("decoder", "head"),
        "head": ("head",),
    }[settings.trained]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(part_of(name) in wanted)
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        and (settings.freeze_statistics or part_of(name) not in wanted)
    ]
