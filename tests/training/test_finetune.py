from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from finetuning import (
    QUICK,
    drawn,
    finetune_by_torch,
    other_tissue,
    reviewed,
    taught,
    untaught,
)
from numpy.typing import NDArray

import napari_emseg as emseg
from napari_emseg.core.card import Card, Variant
from napari_emseg.core.records import EpochDone, Note, Progress, Record, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import AugmentSettings, FinetuneSettings
from napari_emseg.models.parts import part_of
from napari_emseg.models.weights import Weights, read_weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.crops import Crop, RehearsingLoss
from napari_emseg.training.finetune import Finetuned, _Run
from napari_emseg.training.holdout import rounds_of
from napari_emseg.training.losses import IGNORE, cross_entropy
from napari_emseg.training.patches import CorrectionPatches, rehearsed
from napari_emseg.training.trainer import TrainResult

State = dict[str, torch.Tensor]

LEARN = {"steps": 60, "patch": 64, "batch": 4, "learning_rate": 0.02}


@pytest.fixture
def parent(tmp_path: Path) -> Weights:
    return untaught(tmp_path / "parent.safetensors")


@pytest.fixture
def known() -> TrainingSet:
    return reviewed(*drawn(), 0, 3)


def state(weights: Weights) -> State:
    return weights.network().state_dict()


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def finetune(
    parent: Weights,
    known: TrainingSet,
    output: Path,
    records: list[Record] | None = None,
    **how: object,
) -> Finetuned:
    settings = QUICK.model_copy(update=how)
    work = finetune_by_torch(parent, [known], output, settings=settings)
    return drain(work, None if records is None else records.append)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("architecture", ["unet", "unetpp", "cenet"])
def test_zero_steps_change_no_output(
    architecture: str, half: bool, known: TrainingSet, tmp_path: Path
) -> None:
    parent = untaught(tmp_path / "parent.safetensors", architecture, half=half)
    tuned = finetune(parent, known, tmp_path / "out.safetensors", steps=0).weights
    assert same(state(parent), state(tuned))


@pytest.mark.parametrize("architecture", ["unet", "unetpp", "cenet"])
def test_statistics_are_frozen_and_the_rest_learns(
    architecture: str, known: TrainingSet, tmp_path: Path
) -> None:
    parent = untaught(tmp_path / "parent.safetensors", architecture)
    tuned = finetune(parent, known, tmp_path / "out.safetensors", steps=2).weights
    before, after = state(parent), state(tuned)
    for name, value in before.items():
        statistic = "running" in name or "tracked" in name
        assert torch.equal(value, after[name]) == statistic, name


def test_statistics_can_be_let_go(
    parent: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    output = tmp_path / "out.safetensors"
    tuned = finetune(parent, known, output, steps=2, freeze_statistics=False).weights
    before, after = state(parent), state(tuned)
    means = [name for name in before if "running_mean" in name]
    assert not any(torch.equal(before[name], after[name]) for name in means)


def deep(folder: Path) -> Weights:
    """Write a U-Net whose decoder has a coarse level."""
    torch.manual_seed(0)
    config = {"base": 2, "levels": 3}
    card = Card(name="deep", architecture="unet", config=config)
    network = build("unet", config).state_dict()
    return save_weights(folder / "deep.safetensors", network, card, half=False)


@pytest.mark.parametrize(
    ("new_classes", "options", "kept"),
    [
        ((), {}, True),
        ((), {"keep_coarse": False, "keep_old": 0.0}, False),
        # a new class may need what those levels see
        (("mitochondria",), {}, False),
    ],
)
def test_the_coarse_levels_of_the_decoder_are_the_parent_s(
    new_classes: tuple[str, ...],
    options: dict[str, bool],
    kept: bool,
    known: TrainingSet,
    tmp_path: Path,
) -> None:
    parent = deep(tmp_path)
    settings = QUICK.model_copy(update={"steps": 2, **options})
    work = finetune_by_torch(
        parent,
        [known],
        tmp_path / "out.safetensors",
        settings=settings,
        new_classes=new_classes,
    )
    before, after = state(parent), state(drain(work).weights)
    learnt = [n for n in before if n.endswith("weight") and not n.startswith("head")]
    same_ones = {n for n in learnt if torch.equal(before[n], after[n])}
    # at a quarter of the resolution
    coarse = {n for n in learnt if n.startswith(("up.0.", "upsample.0."))}
    assert same_ones == (coarse if kept else set())


@pytest.mark.parametrize("refused", [False, True])
def test_a_share_of_the_old_numbers_is_kept(
    refused: bool, known: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless held-out corrections are less likely with it; then all is as learnt."""
    parent = deep(tmp_path)

    def learn(share: float) -> State:
        output = tmp_path / f"{share}.safetensors"
        how = {"steps": 2, "keep_coarse": False, "keep_old": share}
        return state(finetune(parent, known, output, **how).weights)

    before, learnt = state(parent), learn(0.0)
    if refused:
        monkeypatch.setattr(_Run, "likely", lambda *_: False)
    kept = learn(0.25)
    for name, value in learnt.items():
        wanted = value if refused else 0.75 * value + 0.25 * before[name]
        assert torch.allclose(kept[name].float(), wanted.float(), atol=1e-6), name
    assert not same(before, learnt)


@pytest.mark.parametrize(("kept", "enough"), [(-0.44, True), (-0.46, False)])
def test_half_of_what_was_gained_stays(
    kept: float, enough: bool, tmp_path: Path
) -> None:
    """From -0.5 to -0.4, so -0.45 is the least when something is taken back."""
    parent = deep(tmp_path)
    other = {name: 2 * value for name, value in state(parent).items()}

    class Judge:
        def likelihood(self, network: torch.nn.Module) -> float:
            return -0.5 if same(network.state_dict(), state(parent)) else kept

    run = SimpleNamespace(validation=Judge(), parent=parent, device=torch.device("cpu"))
    learnt = TrainResult({}, {"score": 3.0, "likelihood": -0.4})
    assert _Run.likely(run, other, learnt) == enough  # type: ignore[arg-type]
    # in checkpoints of before, the score was the likelihood
    older = TrainResult({}, {"score": -0.4})
    assert _Run.likely(run, other, older) == enough  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained", "kept"), [("decoder", {"encoder"}), ("head", {"encoder", "decoder"})]
)
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("architecture", ["unet", "unetpp", "cenet"])
def test_only_what_is_wanted_is_trained(
    architecture: str,
    freeze: bool,
    trained: str,
    kept: set[str],
    known: TrainingSet,
    tmp_path: Path,
) -> None:
    parent = untaught(tmp_path / "parent.safetensors", architecture)
    tuned = finetune(
        parent,
        known,
        tmp_path / "out.safetensors",
        steps=2,
        rehearsal=0,
        trained=trained,
        freeze_statistics=freeze,
    ).weights
    before, after = state(parent), state(tuned)
    for name, value in before.items():
        if part_of(name) in kept:
            assert torch.equal(value, after[name]), name
    heads = [name for name in before if part_of(name) == "head"]
    assert not any(torch.equal(before[name], after[name]) for name in heads)


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return taught(tmp_path_factory.mktemp("taught") / "able.safetensors")


def faint_tissue() -> tuple[Stack, NDArray[np.uint8]]:
    """Draw cells whose membranes are a third as dark as those that were learnt."""
    stack, codes = drawn(seed=2)
    grey = np.array(stack.data, float)
    wall = codes == 1
    level = grey[~wall].mean()
    grey[wall] = level + 0.35 * (grey[wall] - level)
    size = stack.voxel_size_nm
    return Stack(grey.astype(np.uint8), name="faint", voxel_size_nm=size), codes


def test_corrections_raise_the_accuracy(able: Weights, tmp_path: Path) -> None:
    stack, codes = faint_tissue()
    output, records = tmp_path / "out.safetensors", []
    known = reviewed(stack, codes, 0, 3)
    found = finetune(able, known, output, records, **LEARN)
    comparison = found.comparison
    assert comparison.basis == "held-out regions"
    assert comparison.regions == (Region(3, 0, 0, 128, 128),)
    assert comparison.verdict == "better"
    assert comparison.candidate["pixel_f"] > comparison.current["pixel_f"] + 0.01
    assert comparison.candidate["vi"] < comparison.current["vi"]
    assert found.weights.card.scores["held_out_pixels"] == 128 * 128
    steps = [r for r in records if isinstance(r, Progress) and r.step == "training"]
    assert [r.done for r in steps] == list(range(1, LEARN["steps"] + 1))
    assert not output.with_name("out.checkpoint").exists()


def test_the_card_tells_the_lineage(
    parent: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    first = finetune(parent, known, tmp_path / "first.safetensors").weights
    card = read_weights(first.path).card
    assert card.name == "first"
    assert card.parent_sha256 == parent.sha256
    assert card.licence == "BSD-3-Clause"
    assert card.summary == "parent, fine-tuned on synthetic"
    assert card.training.settings["trained"] == "all"
    assert card.training.steps == 6
    assert [(d.name, d.sections) for d in card.training_data] == [("synthetic", "0")]
    assert [(d.name, d.sections) for d in card.held_out_data] == [("synthetic", "3")]
    learnt, held_out = rounds_of(card, "synthetic")
    assert {r.z for r in learnt} == {0}
    assert held_out == [Region(3, 0, 0, 128, 128)]
    stack, codes = drawn()
    more = reviewed(stack, codes, 3, 0, 5)
    second = finetune(first, more, tmp_path / "second.safetensors")
    assert second.weights.card.parent_sha256 == first.sha256
    assert Region(3, 0, 0, 128, 128) in second.comparison.regions
    assert {r.z for r in rounds_of(second.weights.card, "synthetic")[0]} == {0, 5}


def test_the_candidate_has_a_threshold_of_its_own(
    able: Weights, tmp_path: Path
) -> None:
    way = Variant(tta=True, threshold=0.9)
    card = able.card.model_copy(update={"threshold": 0.95, "variants": (way,)})
    path = tmp_path / "parent.safetensors"
    parent = save_weights(path, able.network().state_dict(), card)
    stack, codes, _ = other_tissue()
    known = reviewed(stack, codes, 0, 3)
    output = tmp_path / "out.safetensors"
    tuned = read_weights(finetune(parent, known, output, **LEARN).weights.path).card
    assert 0.1 <= tuned.threshold < 0.9
    assert f"membrane above {tuned.threshold:g}" in tuned.notes[0]
    assert "not 0.95 of able" in tuned.notes[0]
    assert tuned.variants[0].threshold is None, "not measured for these weights"
    same = finetune(parent, known, tmp_path / "same.safetensors", steps=0).weights.card
    assert (same.threshold, same.variants[0].threshold) == (0.95, 0.9)


def stop_after(work: object, step: int) -> None:
    for record in work:
        trained = isinstance(record, Progress) and record.step == "training"
        if trained and record.done == step:
            break
    work.close()


def test_interrupted_and_resumed_equals_uninterrupted(
    parent: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    whole = finetune(parent, known, tmp_path / "whole.safetensors").weights
    output = tmp_path / "out.safetensors"
    for step in (1, 4):
        torch.manual_seed(step)
        stop_after(finetune_by_torch(parent, [known], output, settings=QUICK), step)
    records: list[Record] = []
    resumed = finetune(parent, known, output, records).weights
    steps = [r for r in records if isinstance(r, Progress) and r.step == "training"]
    assert [r.done for r in steps] == [5, 6]
    assert same(state(resumed), state(whole))


def test_stop_keeps_the_best_so_far(
    parent: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    output = tmp_path / "out.safetensors"
    stop_after(finetune_by_torch(parent, [known], output, settings=QUICK), 1)
    assert not output.exists(), "nothing is measured yet"
    stop_after(finetune_by_torch(parent, [known], output, settings=QUICK), 5)
    kept = read_weights(output)
    assert kept.card.training.steps == 4
    assert kept.card.notes == ("stopped before it was compared with its parent",)
    assert not same(state(kept), state(parent))


def test_a_round_that_is_told_to_stop_compares_what_it_has_and_can_go_on(
    parent: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    whole = finetune(parent, known, tmp_path / "whole.safetensors").weights
    output = tmp_path / "out.safetensors"
    seen: list[Record] = []

    def start(stop_at: int) -> Finetuned:
        seen.clear()
        work = finetune_by_torch(
            parent,
            [known],
            output,
            settings=QUICK,
            stop=lambda: any(
                isinstance(r, Progress) and r.step == "training" and r.done == stop_at
                for r in seen
            ),
        )
        return drain(work, seen.append)

    stopped = start(2)
    assert stopped.weights.card.training.steps in (2, 3)
    assert stopped.comparison.pixels > 0
    assert output.with_name("out.checkpoint").is_file()
    resumed = start(-1)
    assert not output.with_name("out.checkpoint").exists()
    assert same(state(resumed.weights), state(whole))


def test_after_new_corrections_training_begins_anew(
    parent: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    output = tmp_path / "out.safetensors"
    stop_after(finetune_by_torch(parent, [known], output, settings=QUICK), 4)
    more = reviewed(*drawn(), 0, 3, 5)
    records: list[Record] = []
    finetune(parent, more, output, records)
    assert any(isinstance(r, Note) and "begins anew" in r.message for r in records)
    steps = [r for r in records if isinstance(r, Progress) and r.step == "training"]
    assert len(steps) == 6


def test_held_out_corrections_end_training_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be gained with a tiny rate, so patience runs out."""
    for name, value in (("CHECKED", 1), ("STEPS", 40)):
        monkeypatch.setattr(f"napari_emseg.training.training_data.FEWEST_{name}", value)
    stack, codes = drawn(3)
    grey = np.tile(np.asarray(stack.data), (1, 3, 3))
    wide = Stack(grey, voxel_size_nm=stack.voxel_size_nm)
    known = TrainingSet.from_corrections(wide, np.tile(codes, (1, 3, 3)))
    parent = untaught(tmp_path / "parent.safetensors")
    records: list[Record] = []
    found = finetune(
        parent,
        known,
        tmp_path / "out.safetensors",
        records,
        steps=None,
        validate_every=1,
        learning_rate=1e-12,
        averaging=0.0,
        rehearsal=0.0,
        patience=2,
    )
    epochs = [r for r in records if isinstance(r, EpochDone)]
    assert 2 <= len(epochs) < 20
    assert "pixel_f" in epochs[0].validation
    notes = [r.message for r in records if isinstance(r, Note)]
    assert any("no gain for 2" in note for note in notes)
    assert any("no step was better" in note for note in notes)
    assert found.weights.card.training.settings["steps"] >= 40
    assert found.comparison.basis == "corrections"
    assert "measured only where you corrected" in found.comparison.words


def test_a_third_class_is_added_and_learnt(tmp_path: Path) -> None:
    able = taught(tmp_path / "able.safetensors", base=8)
    stack, codes, body = other_tissue(bright=True)
    codes[body] = 3
    output = tmp_path / "out.safetensors"
    work = finetune_by_torch(
        able,
        [reviewed(stack, codes, 0, 3)],
        output,
        settings=QUICK.model_copy(update=LEARN),
        new_classes=["body"],
    )
    tuned = drain(work).weights
    assert tuned.card.classes == ("membrane", "inside", "body")
    assert tuned.card.config["n_classes"] == 3
    p = emseg.predict(stack, tuned, sections=[5], classes=["body"])[0, 0]
    assert p[body[5]].mean() > 0.4
    assert p[~body[5]].mean() < 0.1


def test_a_new_class_is_met_again_when_the_checkpoint_is_damaged(
    parent: Weights, tmp_path: Path
) -> None:
    stack, codes, body = other_tissue(bright=True)
    codes[body] = 3
    output = tmp_path / "out.safetensors"

    def start() -> Generator[Record, None, Finetuned]:
        known = reviewed(stack, codes, 0, 3)
        return finetune_by_torch(
            parent, [known], output, settings=QUICK, new_classes=["body"]
        )

    def met(records: list[Record]) -> int:
        return sum(isinstance(r, Progress) and r.step == "new classes" for r in records)

    whole: list[Record] = []
    weights = drain(start(), whole.append).weights
    stop_after(start(), 3)
    resumed: list[Record] = []
    drain(start(), resumed.append)
    stop_after(start(), 3)
    checkpoint = output.with_suffix(".checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    anew: list[Record] = []
    again = drain(start(), anew.append).weights
    assert met(whole) == met(anew) > 0
    assert met(resumed) == 0
    assert same(state(again), state(weights))


def test_classes_need_a_name_of_their_own(parent: Weights, tmp_path: Path) -> None:
    stack, codes = drawn()
    known = reviewed(stack, np.where(codes == 2, 3, codes).astype(np.uint8), 0, 3)
    output = tmp_path / "out.safetensors"
    said = r"code 3, class 2, in section \d+ at y \d+, x \d+, but the classes are 1 mem"
    with pytest.raises(ValueError, match=rf"{said}.* name the new class"):
        drain(finetune_by_torch(parent, [known], output))
    with pytest.raises(ValueError, match="has a class 'inside' already"):
        drain(finetune_by_torch(parent, [known], output, new_classes=["inside"]))


def test_a_new_class_learns_nothing_from_the_rehearsal() -> None:
    loss = RehearsingLoss(cross_entropy, rehearsed=1, n_old=2, share=0.5)
    logits = torch.randn(3, 3, 8, 8, requires_grad=True)
    target = torch.randint(0, 2, (3, 8, 8))
    loss(logits, target, torch.ones(3, 8, 8), "sigmoid").backward()
    assert (logits.grad[2, 2] == 0).all()
    assert (logits.grad[2, :2] != 0).all()
    assert (logits.grad[:2, 2] != 0).all()


@pytest.mark.parametrize(
    ("rehearsal", "batch", "n"), [(0.25, 4, 1), (0.5, 4, 2), (0, 4, 0), (0.9, 2, 1)]
)
def test_the_share_of_rehearsal(rehearsal: float, batch: int, n: int) -> None:
    settings = FinetuneSettings(rehearsal=rehearsal, batch=batch)
    assert rehearsed(settings) == n


def test_several_stacks_are_learnt_together(parent: Weights, tmp_path: Path) -> None:
    stack, codes = drawn()
    other = Stack(drawn(seed=2)[0].data, name="other", voxel_size_nm=(50, 4, 4))
    sets = [reviewed(stack, codes, 0, 3), reviewed(other, drawn(seed=2)[1], 1)]
    work = finetune_by_torch(parent, sets, tmp_path / "out.safetensors", settings=QUICK)
    card = drain(work).weights.card
    assert [d.name for d in card.training_data] == ["synthetic", "other"]


def test_reviewed_regions_without_result_are_taken_as_the_weights_show_them(
    parent: Weights, tmp_path: Path
) -> None:
    stack, _ = drawn()
    nothing = np.zeros(stack.shape, np.uint8)
    known = TrainingSet.from_corrections(
        stack, nothing, reviewed=[Region(0, 0, 0, 128, 128), Region(4, 0, 0, 128, 128)]
    )
    found = finetune(parent, known, tmp_path / "out.safetensors", steps=0)
    assert found.comparison.current["pixel_f"] == 1.0


def test_the_valid_form_gets_a_patch_that_fits(tmp_path: Path) -> None:
    from napari_emseg.models.zoo import build

    config = {"base": 2, "levels": 2, "padding": "valid"}
    card = Card(name="valid", architecture="unet", config=config)
    path = tmp_path / "valid.safetensors"
    parent = save_weights(path, build("unet", config).state_dict(), card)
    records: list[Record] = []
    known = reviewed(*drawn(), 0, 3)
    found = finetune(parent, known, tmp_path / "out.safetensors", records, steps=1)
    assert "takes patches of" in next(r for r in records if isinstance(r, Note)).message
    assert found.weights.card.training.steps == 1


@pytest.mark.slow
@pytest.mark.shared_data
def test_mitochondria_of_real_tissue(shared_data: Path, tmp_path: Path) -> None:
    """Bundled weights learn them from two sections, and are scored five away."""
    part = (slice(None), slice(0, 512), slice(0, 512))
    grey, walls, bodies = (
        np.asarray(emseg.open_stack(shared_data / "vnc" / f"{name}.tif").data[part])
        for name in ("raw", "membranes", "mitochondria")
    )
    codes = np.where(walls > 127, 1, 2).astype(np.uint8)
    codes[bodies > 127] = 3
    stack = Stack(grey, name="vnc", voxel_size_nm=(50, 4.6, 4.6))
    work = finetune_by_torch(
        emseg.load_weights("isbi2012-unet"),
        [reviewed(stack, codes, 0, 4)],
        tmp_path / "out.safetensors",
        settings=FinetuneSettings(steps=80, patch=128),
        new_classes=["mitochondria"],
    )
    found = drain(work)
    classes = ("membrane", "mitochondria")
    p = emseg.predict(stack, found.weights, sections=[9], classes=classes)[:, 0]
    is_body = codes[9] == 3
    assert p[1][is_body].mean() > 2.5 * p[1][~is_body].mean()
    assert found.comparison.verdict in ("better", "no difference")


SEEING = {"base": 2, "levels": 1, "context": 3, "affinities": [[-1, 0, 0], [0, -1, 0]]}


@pytest.fixture
def seeing(tmp_path: Path) -> Weights:
    """A network that sees three sections and gives affinities."""
    torch.manual_seed(0)
    card = Card(name="seeing", architecture="unet", config=SEEING)
    state = build("unet", SEEING).state_dict()
    return save_weights(tmp_path / "seeing.safetensors", state, card, half=False)


def test_neighbours_and_affinities_are_kept(
    seeing: Weights, known: TrainingSet, tmp_path: Path
) -> None:
    tuned = finetune(seeing, known, tmp_path / "out.safetensors").weights
    assert tuned.card.context == 3
    assert tuned.card.classes == seeing.card.classes
    assert tuned.card.affinities == ((-1, 0, 0), (0, -1, 0))
    assert not same(state(seeing), state(tuned))


def test_a_new_class_comes_before_the_affinities(
    seeing: Weights, tmp_path: Path
) -> None:
    stack, codes = drawn()
    codes[:, 40:80, 40:80] = 3
    work = finetune_by_torch(
        seeing,
        [reviewed(stack, codes, 0, 3)],
        tmp_path / "out.safetensors",
        settings=QUICK,
        new_classes=["body"],
    )
    card = drain(work).weights.card
    assert card.classes == (
        *("membrane", "inside", "body"),
        *("affinity z1", "affinity y1"),
    )


def test_corrections_teach_affinities_within_a_section(seeing: Weights) -> None:
    image = np.random.default_rng(0).random((3, 96, 96), dtype=np.float32)
    target = np.full((96, 96), IGNORE, np.uint8)
    target[30:60, 30:60] = 1
    target[30:60, 44:46] = 0
    crop = Crop(
        image, target, (target != IGNORE).astype("f4"), Region.whole(0, (96, 96))
    )
    offsets = seeing.card.affinities
    plain = QUICK.model_copy(
        update={"patch": 64, "rehearsal": 0.5, "augment": AugmentSettings(warp=0)}
    )
    unsure = torch.tensor([0.9, 0.5])[:, None, None]
    patches = CorrectionPatches(
        [crop],
        plain,
        device=torch.device("cpu"),
        rehearsal=[crop],
        affinities=offsets,
        opinion=lambda windows: unsure.expand(len(windows), 2, 64, 64),
    )
    images, targets, _ = patches.batch(0)
    assert images.shape == (2, 3, 64, 64)
    new, old = targets
    assert (new[1] == IGNORE).all()  # nothing was said of other sections
    assert set(new[2].unique().tolist()) == {0, 1, IGNORE}
    assert (new[2][new[0] == 0] != 1).all()
    # what the weights are sure of is rehearsed, and nothing else
    assert (old[1] == 1).all()
    assert (old[2] == IGNORE).all()
