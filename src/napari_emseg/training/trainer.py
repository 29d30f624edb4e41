"""A network, patches and a validation in; the best weights out, step by step."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_emseg.core.errors import WorkFailedError
from napari_emseg.core.labels import format_sections
from napari_emseg.core.records import EpochDone, Note, Progress, Record
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.zoo import Network, affinities_of
from napari_emseg.training.checkpoint import (
    DamagedError,
    read_checkpoint,
    set_aside,
    write_checkpoint,
)
from napari_emseg.training.losses import LOSSES, Loss, supervised_loss, with_affinities
from napari_emseg.training.patches import Patches, check_patch
from napari_emseg.training.validation import Validation

SAVE_EVERY = 30.0
"""Seconds after which a step is followed by a checkpoint: a kill may cost a minute."""

SAVE_BEFORE_VALIDATION = 5.0
"""The same before a validation, which may take long."""


@dataclass
class TrainResult:
    """Best weights so far, and how they were found."""

    state: dict[str, Tensor]
    scores: dict[str, float] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a network; can be stopped after any step and resumed from its checkpoint.

    Parameters
    ----------
    network
        Trained in place, on the device where it is.
    patches
        What it learns from.
    validation
        Chooses the best weights; without one the last are the best.
    settings
        Steps, rates, seed. Parameters that need no gradient stay as they are.
    loss
        Instead of the one that settings name.
    frozen
        Modules that stay in evaluation mode, such as batch normalisations.
    patience
        Measurements without gain after which training ends early; none by default.
    of
        What the run is of (data, parent): a checkpoint of something else is refused.
    facts
        What else the run is of, by name, as JSON has it: a checkpoint in which one of
        them differs is refused, and the difference is named. Of a mapping the values
        that both have are compared.
    checkpoint
        File that is replaced at every validation, when training is stopped, and so
        often that no more than a minute is lost; resumed from when it exists.
    stop
        Asked after every step: if True, what was reached is validated, and training
        ends early with the best so far.

    Raises
    ------
    ValueError
        If the network doesn't take patches of this size.
    """

    def __init__(
        self,
        network: nn.Module,
        patches: Patches,
        settings: TrainSettings,
        *,
        validation: Validation | None = None,
        loss: Loss | None = None,
        frozen: Iterable[nn.Module] = (),
        patience: int | None = None,
        of: str = "",
        facts: Mapping[str, Any] | None = None,
        checkpoint: Path | None = None,
        stop: Callable[[], bool] = bool,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_patch(cast("Network", network).geometry, settings.patch)
        self.settings = settings
        self._kind = cast("Network", network)
        self._loss = loss or with_affinities(
            LOSSES[settings.loss],
            len(affinities_of(network)),
            settings.affinity_weight,
        )
        self._frozen = tuple(frozen)
        self._patience = patience
        self._of = of
        self._facts = facts
        self._patches = patches
        self._validation = validation
        self._checkpoint = checkpoint
        self._stop = stop
        self.stopped = False
        """True if `stop` ended training before its time."""
        self._device = next(network.parameters()).device
        self._optimiser, self._schedule = _optimiser(network, settings)
        self._average = _average(network, settings)
        self._step = 0
        self._losses: list[float] = []
        self._seconds = 0.0
        """Of the steps since the last validation, as `_losses` are."""
        self._saved = perf_counter()
        self.best = TrainResult(_snapshot(network))

    def run(self) -> Generator[Record, None, TrainResult]:
        """Train; yields Progress for every step and EpochDone for every validation.

        When the loss stops being a number, training ends with a Note and the last good
        weights. Closing the generator saves the step that was reached.

        Raises
        ------
        ValueError
            If the checkpoint is of another run, or the loss stops being a number before
            the first validation.
        OSError
            If the checkpoint can't be written.
        """
        yield from self.resume()
        self._saved = perf_counter()
        try:
            yield from self._steps()
        except GeneratorExit:
            self._save()
            raise
        return self.best

    def _steps(self) -> Generator[Record, None, None]:
        if self._due:  # it ended between a step and its validation
            yield self._measure()
        while self._step < self.settings.steps and not (self._stuck or self.stopped):
            started = perf_counter()
            loss = self._update()
            # not a number: the only value that differs from itself
            if loss != loss:
                yield self._give_up()
                break
            self._losses.append(loss)
            self._step += 1
            self._seconds += perf_counter() - started
            self.stopped = self._stop() and self._step < self.settings.steps
            # a finite loss was computed before the step that made weights infinite
            if (self._due or self.stopped) and not self._finite:
                yield self._give_up()
                break
            if self._due or self.stopped:
                self._save_after(SAVE_BEFORE_VALIDATION)
                yield self._measure()
            else:
                self._save_after(SAVE_EVERY)
            yield Progress("training", self._step, self.settings.steps)
        if self._stuck and not self.stopped:
            yield Note(f"no gain for {self._patience} measurements: training ends")

    @property
    def _due(self) -> bool:
        """Tell if the steps since the last validation are to be validated now."""
        last = self._step == self.settings.steps
        return bool(self._losses) and (
            last or self._step % self.settings.validate_every == 0
        )

    @property
    def _finite(self) -> bool:
        """Tell if the weights that may be kept are numbers; the loss may still be."""
        state = self._candidate.state_dict()
        return all(bool(value.isfinite().all()) for value in state.values())

    def _measure(self) -> EpochDone:
        """Validate the steps since the last time, and keep what was found."""
        started, n = perf_counter(), len(self._losses)
        found = self._validate(sum(self._losses) / n, 1000 * self._seconds / n)
        self.best.seconds += self._seconds + perf_counter() - started
        self._losses, self._seconds = [], 0.0
        self._save()
        return found

    @property
    def _stuck(self) -> bool:
        """Tell if nothing was gained for too long."""
        if self._patience is None or self._validation is None:
            return False
        since = [h for h in self.best.history if h["step"] > self.best.step]
        return len(since) >= self._patience

    def _give_up(self) -> Note:
        """Say that the loss is not a number, if there are good weights to keep."""
        msg = _not_a_number(self._step, self.settings)
        if self.best.step == 0:
            raise WorkFailedError(f"{msg}; no weights are good yet")
        return Note(f"{msg}; the last good weights, of step {self.best.step}, are kept")

    def _update(self) -> float:
        """Make one step and return its loss."""
        settings = self.settings
        torch.manual_seed(settings.seed * 1_000_003 + self._step)  # drop-out
        self.network.train()
        for module in self._frozen:
            module.eval()
        image, target, weight = self._patches.batch(self._step)
        half = settings.half_precision and fast_half(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            outputs = self._kind.supervised(image.to(memory_format=torch.channels_last))
        target, weight = (middle(t, outputs[0]) for t in (target, weight))
        loss = supervised_loss(
            [logits.float() for logits in outputs],
            target,
            weight,
            self._kind.activation,
            loss=self._loss,
            self_distillation=settings.self_distillation,
        )
        value = float(loss.detach())
        if value == value:
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            if self._schedule is not None:
                self._schedule.step()
            if self._average is not None:
                self._average.update_parameters(self.network)
        return value

    def _validate(self, loss: float, ms: float) -> EpochDone:
        scores = {"loss": loss}
        if self._validation is not None:
            measured = self._validation(self._candidate)
            scores |= {name: float(value) for name, value in measured.items()}
        # without a validation the step itself is the score, so
        # that the last weights are best
        score = scores.get("score", float(self._step))
        best = score > self.best.scores.get("score", float("-inf"))
        if best:
            self.best.state = _snapshot(self._candidate)
            self.best.scores = {**scores, "score": score}
            self.best.step = self._step
        self.best.history.append({"step": self._step, "ms_per_step": ms, **scores})
        return EpochDone(self._step, self.settings.steps, loss, scores, best, ms)

    @property
    def _candidate(self) -> nn.Module:
        """The weights that may be kept: their running mean, where one is made."""
        return self.network if self._average is None else self._average.module

    def _save_after(self, seconds: float) -> None:
        """Write the checkpoint if the last one is so old."""
        if perf_counter() - self._saved > seconds:
            self._save()

    def _save(self) -> None:
        if self._checkpoint is not None:
            write_checkpoint(self._checkpoint, self._contents())
        self._saved = perf_counter()

    def _contents(self) -> dict[str, Any]:
        return {
            "step": self._step,
            # JSON, followed by what else the run is of: `_other_settings` parts them
            "settings": self.settings.model_dump_json() + self._of,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule and self._schedule.state_dict(),
            "average": self._average and self._average.state_dict(),
            "best": vars(self.best),
            "facts": None if self._facts is None else json.dumps(self._facts),
            "losses": list(self._losses),
            "seconds": self._seconds,
        }

    def resume(self) -> Generator[Note, None, None]:
        """Go on from the checkpoint, if there is one.

        A damaged one gets another name, and a Note says that training begins anew.

        Raises
        ------
        ValueError
            If it is of a run with other settings or another network.
        """
        if self._checkpoint is None or not self._checkpoint.is_file():
            return
        try:
            saved = read_checkpoint(self._checkpoint, self._device)
        except DamagedError:
            kept = set_aside(self._checkpoint)
            yield Note(
                f"{self._checkpoint.name} is damaged, or no checkpoint: it was renamed "
                f"{kept.name}, and training begins anew"
            )
            return
        self._check_run(saved)
        try:
            self.network.load_state_dict(saved["network"])
        except RuntimeError as e:
            raise ValueError(_of_another(self._checkpoint, "another network")) from e
        try:
            self._take(saved)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
            msg = f"{self._checkpoint} holds odd values; delete it to start anew"
            raise ValueError(msg) from e

    def _take(self, saved: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        self._step = int(saved["step"])
        self._optimiser.load_state_dict(saved["optimiser"])
        if self._schedule is not None:
            self._schedule.load_state_dict(saved["schedule"])
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        self.best = TrainResult(**saved["best"])
        self._losses, self._seconds = list(saved["losses"]), float(saved["seconds"])

    def _check_run(self, saved: Mapping[str, Any]) -> None:
        """Check that a checkpoint is of this run.

        Raises
        ------
        ValueError
            With all that differs.
        """
        if self._checkpoint is None:
            return
        if self._facts is not None and saved["facts"] is None:
            msg = (
                f"{self._checkpoint} doesn't say which data it has learnt from (an "
                "older version wrote it); delete it to start anew"
            )
            raise ValueError(msg)
        differ = _other_settings(saved["settings"], self.settings, self._of)
        if self._facts is not None:
            now = json.loads(json.dumps(self._facts))
            differ += _other_facts(json.loads(saved["facts"]), now)
        if differ:
            raise ValueError(_of_another(self._checkpoint, ", ".join(differ)))


def _other_settings(saved: str, settings: TrainSettings, of: str) -> list[str]:
    """Name what a checkpoint is of; settings that it doesn't know have defaults."""
    values, end = json.JSONDecoder().raw_decode(saved)
    try:
        # through the model, so that a setting which is newer than
        # the checkpoint has its default
        before = type(settings)(**values).model_dump(mode="json")
    except ValidationError:
        return ["other settings"]
    after = settings.model_dump(mode="json")
    differ = [
        f"{name} {before[name]}, now {after[name]}"
        for name in after
        if before[name] != after[name]
    ]
    if differ:
        return [f"other settings ({', '.join(differ)})"]
    return [] if saved[end:] == of else ["other data or weights to begin with"]


def _other_facts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name facts that differ, in words."""
    differ = []
    for name in after:
        old, new = before.get(name), after[name]
        if not (isinstance(old, dict) and isinstance(new, dict)):
            differ += [f"{name} {old} (now {new})"] * (old != new)
            continue
        keys = [key for key in new if key in old and old[key] != new[key]]
        if keys:
            where = format_sections([int(key) for key in keys])
            differ.append(f"other {name} in {where}")
    return differ


def _optimiser(
    network: nn.Module, settings: TrainSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR | None]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        # the optimiser of Ronneberger et al. 2015, section 3: high momentum,
        # since a step sees only one tile
        return torch.optim.SGD(parameters, lr=rate, momentum=0.99), None
    # one pass over the weights instead of a dozen
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    optimiser = torch.optim.AdamW(
        parameters, lr=rate, weight_decay=decay, fused=fused or None
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rate, total_steps=max(1, settings.steps), pct_start=0.15
    )
    return optimiser, schedule


def _average(network: nn.Module, settings: TrainSettings) -> AveragedModel | None:
    """Return the running mean of the weights and of BatchNorm's statistics."""
    if settings.averaging == 0:
        return None
    mean = get_ema_multi_avg_fn(settings.averaging)  # type: ignore[no-untyped-call]
    # an exponential moving average; buffers too, since averaged weights need the
    # statistics that belong to them
    return AveragedModel(network, multi_avg_fn=mean, use_buffers=True)


def fast_half(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def middle(values: Tensor, logits: Tensor) -> Tensor:
    """Cut the middle `(…, y', x')` out of values, as large as the logits."""
    height, width = logits.shape[2:]
    y, x = (values.shape[-2] - height) // 2, (values.shape[-1] - width) // 2
    return values[..., y : y + height, x : x + width]


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


def _of_another(checkpoint: Path, what: str) -> str:
    return (
        f"{checkpoint} belongs to a run with {what}; "
        f"delete it to start anew, or go on with what it was begun with"
    )


def _not_a_number(step: int, settings: TrainSettings) -> str:
    return (
        f"the loss is not a number at step {step}; "
        f"try a learning rate below {settings.learning_rate:g}"
    )
