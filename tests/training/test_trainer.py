from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from napari_emseg.core.atomic import DiskFullError
from napari_emseg.core.records import EpochDone, Note, Progress, Record, drain
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import AugmentSettings, TrainSettings
from napari_emseg.models.zoo import build
from napari_emseg.training import trainer as trainer_module
from napari_emseg.training.checkpoint import DamagedError, read_checkpoint
from napari_emseg.training.dataset import Example, read_examples
from napari_emseg.training.patches import PatchSource
from napari_emseg.training.trainer import Trainer, TrainResult, _other_settings

SETTINGS = TrainSettings(
    steps=12, patch=32, batch=2, validate_every=4, half_precision=False, seed=1
)
CPU = torch.device("cpu")


@pytest.fixture
def examples(drawn_stack: tuple[Stack, NDArray[np.uint32]]) -> list[Example]:
    stack, cells = drawn_stack
    return read_examples(stack, Stack(cells), "cells")


def tiny(**config: object) -> nn.Module:
    torch.manual_seed(0)
    return build("unet", {"base": 4, "levels": 2, **config})


class Ranking:
    """A validation whose scores are given; counts how often it is asked."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        return {"score": self.scores.pop(0)}


def trainer(
    examples: list[Example],
    *,
    settings: TrainSettings = SETTINGS,
    network: nn.Module | None = None,
    **options: object,
) -> Trainer:
    patches = PatchSource(examples, settings, n_classes=2, device=CPU)
    return Trainer(network or tiny(), patches, settings, **options)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stop_after(work: Trainer, steps: int) -> None:
    run = work.run()
    for record in run:
        if isinstance(record, Progress) and record.done == steps:
            break
    run.close()


def test_the_loss_falls(examples: list[Example]) -> None:
    settings = SETTINGS.model_copy(
        update={
            "steps": 60,
            "validate_every": 20,
            "augment": AugmentSettings(artefacts=0),
            "learning_rate": 0.01,
        }
    )
    records: list[Record] = []
    result = drain(trainer(examples, settings=settings).run(), records.append)
    losses = [r.loss for r in records if isinstance(r, EpochDone)]
    assert len(losses) == 3
    assert losses[-1] < 0.6 * losses[0]
    assert [h["step"] for h in result.history] == [20, 40, 60]
    steps = [r.done for r in records if isinstance(r, Progress)]
    assert steps == list(range(1, 61))


def test_the_best_by_validation_is_kept(examples: list[Example]) -> None:
    work = trainer(examples, validation=Ranking(0.2, 0.9, 0.5))
    kept: dict[int, dict[str, torch.Tensor]] = {}
    records: list[EpochDone] = []
    run = work.run()
    while True:
        try:
            record = next(run)
        except StopIteration as stop:
            result: TrainResult = stop.value
            break
        if isinstance(record, EpochDone):
            records.append(record)
            state = work.network.state_dict()
            kept[record.step] = {k: v.clone() for k, v in state.items()}
    assert [r.best for r in records] == [True, True, False]
    assert (result.step, result.scores["score"]) == (8, 0.9)
    assert same(result.state, kept[8])
    assert not same(result.state, kept[12])


def test_without_validation_the_last_is_kept(examples: list[Example]) -> None:
    work = trainer(examples)
    result = drain(work.run())
    assert result.step == 12
    assert same(result.state, work.network.state_dict())


def test_averaging_keeps_the_running_mean(examples: list[Example]) -> None:
    settings = SETTINGS.model_copy(update={"averaging": 0.75, "steps": 6})
    work = trainer(examples, settings=settings)
    mean: dict[str, torch.Tensor] = {}
    run = work.run()
    for record in run:
        if isinstance(record, Progress):
            for name, value in work.network.named_parameters():
                old = mean.get(name, value.detach())
                mean[name] = 0.75 * old + 0.25 * value.detach()
    state = work.best.state
    assert mean.keys() <= state.keys()
    for name, value in mean.items():
        torch.testing.assert_close(state[name], value)
    assert not same(work.network.state_dict(), state)


@pytest.mark.parametrize(
    ("architecture", "config", "teaches"),
    [
        ("unet", {"base": 4, "levels": 2}, False),
        ("unetpp", {"base": 4, "depth": 2}, True),
    ],
)
def test_the_deepest_head_teaches_where_there_are_several(
    architecture: str,
    config: dict[str, object],
    *,
    teaches: bool,
    examples: list[Example],
) -> None:
    def learnt(share: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        settings = SETTINGS.model_copy(update={"steps": 2, "self_distillation": share})
        network = build(architecture, config)
        work = trainer(examples, settings=settings, network=network)
        return drain(work.run()).state

    assert same(learnt(0.0), learnt(0.5)) is not teaches


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_seed_gives_one_result(optimiser: str, examples: list[Example]) -> None:
    settings = SETTINGS.model_copy(update={"steps": 4, "optimiser": optimiser})
    a, b = (drain(trainer(examples, settings=settings).run()) for _ in range(2))
    assert same(a.state, b.state)
    other = settings.model_copy(update={"seed": 2})
    assert not same(drain(trainer(examples, settings=other).run()).state, a.state)


@pytest.mark.parametrize(
    "how", [{}, {"optimiser": "sgd"}, {"averaging": 0.5}], ids=["adamw", "sgd", "mean"]
)
@pytest.mark.parametrize("stops", [(8,), (1, 6, 11)])
def test_interrupted_and_resumed_equals_uninterrupted(
    how: dict[str, object],
    stops: tuple[int, ...],
    examples: list[Example],
    tmp_path: Path,
) -> None:
    settings = SETTINGS.model_copy(update=how)
    scores = (0.1, 0.3, 0.2)
    whole = drain(
        trainer(examples, settings=settings, validation=Ranking(*scores)).run()
    )
    checkpoint = tmp_path / "run.checkpoint"
    validation = Ranking(*scores)
    for stop in stops:
        torch.manual_seed(stop)  # whatever else happened to torch meanwhile
        work = trainer(
            examples, settings=settings, validation=validation, checkpoint=checkpoint
        )
        stop_after(work, stop)
    last = trainer(
        examples, settings=settings, validation=validation, checkpoint=checkpoint
    )
    resumed = drain(last.run())
    assert same(resumed.state, whole.state)
    assert resumed.step == whole.step == 8
    steps = [h["step"] for h in resumed.history]
    assert steps == [4, 8, 12]
    uninterrupted = trainer(examples, settings=settings, validation=Ranking(*scores))
    drain(uninterrupted.run())
    assert same(last.network.state_dict(), uninterrupted.network.state_dict())


class Killed(BaseException):
    """What ends a process at once, so that nothing is saved any more."""


def kill_at(work: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until a step is made, then end without any clean-up."""
    save = work._save
    run = work.run()
    for record in run:
        if isinstance(record, Progress) and record.done == step:
            break
    monkeypatch.setattr(work, "_save", lambda: None)
    run.close()
    monkeypatch.setattr(work, "_save", save)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_little_is_lost_when_a_run_is_killed(
    step: int,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock by which each step takes 20 s, a kill costs one step at most."""
    whole = trainer(examples, validation=Ranking(0.1, 0.3, 0.2))
    expected = drain(whole.run())
    now = iter(range(0, 100_000, 10))  # two readings a step
    monkeypatch.setattr(trainer_module, "perf_counter", lambda: float(next(now)))
    checkpoint = tmp_path / "run.checkpoint"
    validation = Ranking(0.1, 0.3, 0.2)
    first = trainer(examples, validation=validation, checkpoint=checkpoint)
    kill_at(first, step, monkeypatch)
    again = trainer(examples, validation=validation, checkpoint=checkpoint)
    records: list[Record] = []
    result = drain(again.run(), records.append)
    begun = next(r.done for r in records if isinstance(r, Progress))
    assert step - 2 < begun <= step + 1
    assert same(result.state, expected.state)
    measured = [{**h, "ms_per_step": 0} for h in result.history]
    assert measured == [{**h, "ms_per_step": 0} for h in expected.history]


def test_a_kill_while_validating_validates_that_step_again(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before it is of the step that was to be validated."""
    monkeypatch.setattr(trainer_module, "SAVE_BEFORE_VALIDATION", 0.0)
    whole = drain(trainer(examples, validation=Ranking(0.1, 0.3, 0.2)).run())
    checkpoint = tmp_path / "run.checkpoint"

    def killed(network: nn.Module) -> dict[str, float]:
        raise Killed

    with pytest.raises(Killed):
        drain(trainer(examples, validation=killed, checkpoint=checkpoint).run())
    ranking = Ranking(0.1, 0.3, 0.2)
    records: list[Record] = []
    again = trainer(examples, validation=ranking, checkpoint=checkpoint)
    result = drain(again.run(), records.append)
    assert isinstance(records[0], EpochDone)
    assert [h["step"] for h in result.history] == [4, 8, 12]
    assert [h["loss"] for h in result.history] == [h["loss"] for h in whole.history]
    assert same(result.state, whole.state)


@pytest.mark.parametrize(
    "changes",
    [{"optimiser": {"state": {}, "param_groups": []}}, {"step": "x"}, {"best": {}}],
)
def test_odd_values_in_a_checkpoint_are_one_line(
    changes: dict[str, object], examples: list[Example], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    stop_after(trainer(examples, checkpoint=checkpoint), 4)
    saved = torch.load(checkpoint, weights_only=True)
    if "best" in changes:
        changes = {"best": {"unknown": 1}}
    torch.save({**saved, **changes}, checkpoint)
    with pytest.raises(ValueError, match=r"run.checkpoint holds odd values; delete"):
        drain(trainer(examples, checkpoint=checkpoint).run())


def test_a_finished_run_is_not_run_again(
    examples: list[Example], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    first = drain(trainer(examples, checkpoint=checkpoint).run())
    records: list[Record] = []
    again = drain(trainer(examples, checkpoint=checkpoint).run(), records.append)
    assert records == []
    assert same(first.state, again.state)


class Exploding(PatchSource):
    """Patches that are not numbers from some step on."""

    first = 6

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image, target, weight = super().batch(step)
        return (image * torch.nan if step >= self.first else image), target, weight


def exploding(examples: list[Example], first: int) -> Trainer:
    patches = Exploding(examples, SETTINGS, n_classes=2, device=CPU)
    patches.first = first
    return Trainer(tiny(), patches, SETTINGS)


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(
    examples: list[Example],
) -> None:
    records: list[Record] = []
    result = drain(exploding(examples, 6).run(), records.append)
    note = records[-1]
    assert isinstance(note, Note)
    assert "not a number at step 6" in note.message
    assert "learning rate below 0.002" in note.message
    assert result.step == 4
    assert all(torch.isfinite(v).all() for v in result.state.values())
    short = SETTINGS.model_copy(update={"steps": 12, "validate_every": 4})
    good = trainer(examples, settings=short)
    stop_after(good, 4)
    assert same(result.state, good.best.state)


def test_a_loss_that_never_was_a_number_is_an_error(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match=r"not a number at step 2; try a .* rate"):
        drain(exploding(examples, 2).run())


def test_a_checkpoint_is_replaced_only_when_whole(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    stop_after(trainer(examples, checkpoint=checkpoint), 5)
    before = checkpoint.read_bytes()

    def half(contents: object, file: object) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", half)
    with pytest.raises(DiskFullError, match="no space is left"):
        drain(trainer(examples, checkpoint=checkpoint).run())
    assert checkpoint.read_bytes() == before


def test_other_settings_are_refused(examples: list[Example], tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    stop_after(trainer(examples, checkpoint=checkpoint), 4)
    other = SETTINGS.model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(
        ValueError, match=r"settings \(learning_rate 0.002, now 0.001\); delete"
    ):
        drain(trainer(examples, settings=other, checkpoint=checkpoint).run())


def test_another_network_is_refused(examples: list[Example], tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    stop_after(trainer(examples, checkpoint=checkpoint), 4)
    wider = tiny(base=8)
    with pytest.raises(ValueError, match="with another network; delete it"):
        drain(trainer(examples, network=wider, checkpoint=checkpoint).run())


class Trap:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "foreign", "pickle"])
def test_with_a_damaged_checkpoint_training_begins_anew(
    damage: str, examples: list[Example], tmp_path: Path
) -> None:
    whole_run = drain(trainer(examples).run())
    checkpoint, trace = tmp_path / "run.checkpoint", tmp_path / "trace"
    stop_after(trainer(examples, checkpoint=checkpoint), 4)
    whole = checkpoint.read_bytes()
    if damage == "foreign":
        torch.save({"model": torch.zeros(2)}, checkpoint)
    else:
        checkpoint.write_bytes(
            {
                "empty": b"",
                "cut": whole[: len(whole) // 2],
                "text": b"these are not the weights",
                "pickle": pickle.dumps(Trap(trace), protocol=2),
            }[damage]
        )
    harmed = checkpoint.read_bytes()
    records: list[Record] = []
    result = drain(trainer(examples, checkpoint=checkpoint).run(), records.append)
    assert records[0] == Note(
        "run.checkpoint is damaged, or no checkpoint: it was renamed "
        "run.checkpoint.not-used, and training begins anew"
    )
    assert (tmp_path / "run.checkpoint.not-used").read_bytes() == harmed
    assert same(result.state, whole_run.state)
    assert not trace.exists()


def test_scores_may_be_numpy_numbers(examples: list[Example], tmp_path: Path) -> None:
    def validate(network: nn.Module) -> dict[str, float]:
        return {"score": np.float64(0.5), "v_rand": np.float32(0.25)}

    checkpoint = tmp_path / "run.checkpoint"
    stop_after(trainer(examples, validation=validate, checkpoint=checkpoint), 4)
    resumed = trainer(examples, validation=validate, checkpoint=checkpoint)
    list(resumed.resume())
    assert resumed.best.scores["v_rand"] == 0.25


def test_the_paper_s_mode(examples: list[Example]) -> None:
    """SGD, momentum 0.99, one large tile a step, the valid form, its weight map."""
    settings = TrainSettings(
        steps=3,
        patch=60,
        batch=1,
        optimiser="sgd",
        learning_rate=1e-3,
        border_weight=10,
        balance=True,
        validate_every=3,
        half_precision=False,
    )
    network = tiny(padding="valid", normalisation="none")
    trim = network.geometry.trim
    patches = PatchSource(examples, settings, n_classes=2, device=CPU, trim=trim)
    work = Trainer(network, patches, settings)
    (group,) = work._optimiser.param_groups
    assert (group["momentum"], group["lr"]) == (0.99, 1e-3)
    assert work._schedule is None
    before = {k: v.clone() for k, v in network.state_dict().items()}
    result = drain(work.run())
    assert np.isfinite(result.history[0]["loss"])
    assert not same(result.state, before)


def test_the_target_of_a_valid_network_is_the_middle_of_the_patch(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"patch": 60, "steps": 1})
    network = tiny(padding="valid")
    work = trainer(examples, settings=settings, network=network)
    seen = {}

    def spy(logits, target, weight, activation):
        seen.update(logits=logits, target=target, weight=weight)
        return logits.sum()

    monkeypatch.setattr(work, "_loss", spy)
    work._update()
    _, target, weight = work._patches.batch(0)
    trim = network.geometry.trim
    assert seen["logits"].shape[2:] == (60 - 2 * trim,) * 2
    middle = (slice(None), slice(trim, -trim), slice(trim, -trim))
    assert torch.equal(seen["target"], target[middle])
    assert torch.equal(seen["weight"], weight[middle])


def test_patches_that_do_not_fit_are_refused(examples: list[Example]) -> None:
    settings = SETTINGS.model_copy(update={"patch": 34})
    with pytest.raises(ValueError, match="the nearest are 32 and 36"):
        trainer(examples, settings=settings)


def test_the_rate_goes_up_and_down_once(examples: list[Example]) -> None:
    settings = SETTINGS.model_copy(update={"steps": 40, "validate_every": 40})
    work = trainer(examples, settings=settings)
    (group,) = work._optimiser.param_groups
    rates = [group["lr"] for record in work.run() if isinstance(record, Progress)]
    top = int(np.argmax(rates))
    assert max(rates) <= SETTINGS.learning_rate * (1 + 1e-6)
    assert 0 < top < 10
    assert (np.diff(rates[top:-1]) < 0).all()


def test_a_checkpoint_older_than_a_setting_is_gone_on_with() -> None:
    """What it doesn't know was as the default is now."""
    values = SETTINGS.model_dump(mode="json")
    del values["averaging"], values["augment"]["invert"]
    older = json.dumps(values)
    assert _other_settings(older, SETTINGS, "") == []
    assert _other_settings(older + " of vnc", SETTINGS, " of vnc") == []
    assert _other_settings(older, SETTINGS, " of vnc")
    other = SETTINGS.model_copy(update={"averaging": 0.9})
    assert _other_settings(older, other, "") == [
        "other settings (averaging 0.0, now 0.9)"
    ]
    assert _other_settings(json.dumps({"gone": 1}), SETTINGS, "")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_checkpoint_that_is_cut_anywhere_is_damaged(
    share: float, examples: list[Example], tmp_path: Path
) -> None:
    """Cut at some places, the reader seeks before the beginning of the file."""
    checkpoint = tmp_path / "run.checkpoint"
    stop_after(trainer(examples, checkpoint=checkpoint), 1)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DamagedError, match=r"run\.checkpoint is damaged"):
        read_checkpoint(checkpoint, torch.device("cpu"))
