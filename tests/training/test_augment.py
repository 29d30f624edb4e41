from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_emseg.core.training import Artefact, AugmentSettings, TrainSettings
from napari_emseg.training.augment import (
    Augmentation,
    Warp,
    draw_artefacts,
    draw_augmentation,
    draw_grey_change,
    draw_warp,
    positions,
    sample,
)
from napari_emseg.training.losses import IGNORE
from napari_emseg.training.patches import Piece, draw_patch

SIDE = 33
CENTRE = ((SIDE - 1) / 2, (SIDE - 1) / 2)
EXACT = AugmentSettings(warp=0)
WARPED = AugmentSettings(warp=1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(side: int = SIDE) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.sin(y / 5) * torch.cos(x / 7)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("seed", range(12))
def test_exact_warps_move_pixels_onto_pixels(seed: int, side: int) -> None:
    picture = torch.arange(side * side, dtype=torch.float32).view(1, side, side)
    centre = ((side - 1) / 2, (side - 1) / 2)
    where = positions(draw_warp(EXACT, seeded(seed)), centre, side)
    for mode in ("nearest", "bicubic"):
        moved = sample(picture, where, mode)[0]
        torch.testing.assert_close(moved.ravel().sort()[0], picture.ravel())
    expected = [np.rot90(p, k) for p in (picture[0], picture[0].T) for k in range(4)]
    assert any(np.allclose(moved, e, atol=1e-2) for e in expected)


def test_all_turns_and_flips_happen() -> None:
    matrices = {
        tuple(draw_warp(EXACT, seeded(seed)).matrix.ravel().tolist())
        for seed in range(60)
    }
    assert len(matrices) == 8


@pytest.mark.parametrize("seed", range(8))
def test_picture_and_target_are_warped_alike(seed: int) -> None:
    """A picture that is its own target stays so, apart from interpolation."""
    where = positions(draw_warp(WARPED, seeded(seed)), CENTRE, SIDE)
    picture = smooth()[None]
    image = sample(picture, where, "bicubic")
    target = sample(picture, where, "nearest")
    step = 0.25  # the steepest slope over a pixel's diagonal
    assert float((image - target).abs().max()) < step
    assert float((image - picture).abs().max()) > step  # and it was warped


def test_displacements_have_the_paper_s_standard_deviation() -> None:
    drawn = torch.stack([draw_warp(WARPED, seeded(s)).shift for s in range(400)])
    assert drawn.shape[1:] == (2, 3, 3)
    assert float(drawn.std()) == pytest.approx(10, rel=0.05)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.6)


def test_displacements_are_those_of_the_grid_and_smooth_between() -> None:
    shift = torch.randn(2, 3, 3, generator=seeded(0)) * 10
    moved = positions(Warp(torch.eye(2), shift, exact=False), CENTRE, SIDE)
    still = positions(
        Warp(torch.eye(2), torch.zeros(2, 3, 3), exact=False), CENTRE, SIDE
    )
    field = moved - still
    nodes = field[:: SIDE // 2, :: SIDE // 2].permute(2, 0, 1)
    torch.testing.assert_close(nodes, shift, atol=1e-4, rtol=0)
    jumps = torch.diff(field, dim=0).norm(dim=-1)
    assert float(jumps.max()) < 6  # nodes are 16 px apart and differ by about 14


def test_any_angle_and_scale_happen() -> None:
    warps = [draw_warp(WARPED, seeded(s)) for s in range(200)]
    scales = torch.stack([w.matrix.det().abs().sqrt() for w in warps])
    assert 0.87 <= float(scales.min()) < 0.9
    assert 1.12 < float(scales.max()) <= 1.149
    angles = torch.stack([torch.atan2(w.matrix[1, 0], w.matrix[0, 0]) for w in warps])
    assert len((angles * 180 / torch.pi).round().unique()) > 100


def test_share_of_warped_patches() -> None:
    chosen = AugmentSettings(warp=0.3)
    warped = [not draw_warp(chosen, seeded(s)).exact for s in range(500)]
    assert np.mean(warped) == pytest.approx(0.3, abs=0.07)


def test_beyond_the_border_is_its_mirror() -> None:
    picture = torch.rand(1, 9, 12, generator=seeded(1))
    y, x = torch.meshgrid(torch.arange(-6, 15), torch.arange(-7, 19), indexing="ij")
    where = torch.stack([y, x], dim=-1).float()
    wanted = np.pad(picture[0].numpy(), ((6, 6), (7, 7)), mode="reflect")
    found = sample(picture, where, "nearest")[0]
    np.testing.assert_array_equal(found, wanted)


def test_grey_values_change_within_their_bounds() -> None:
    image = torch.linspace(0, 1, 900).view(30, 30)
    settings = AugmentSettings(contrast=0.3, noise=0)
    for seed in range(30):
        changed = draw_grey_change(settings, 30, seeded(seed)).apply(image)
        assert (torch.diff(changed.ravel()) > 0).all()  # dark stays dark
        gain = float(changed.max() - changed.min())
        assert 0.7 <= gain <= 1.3
        assert abs(float((changed.max() + changed.min()) / 2) - 0.5) <= 0.15 + 1e-6
    still = AugmentSettings(contrast=0, noise=0)
    same = draw_grey_change(still, 30, seeded(0)).apply(image)
    torch.testing.assert_close(same, image)


def test_noise_has_at_most_its_standard_deviation() -> None:
    settings = AugmentSettings(contrast=0, noise=0.2)
    deviations = [
        float(
            draw_grey_change(settings, 64, seeded(s))
            .apply(torch.full((64, 64), 0.5))
            .std()
        )
        for s in range(20)
    ]
    assert max(deviations) < 0.21
    assert max(deviations) > 0.1
    assert min(deviations) < 0.1


def only(artefact: Artefact) -> AugmentSettings:
    """Settings with which that artefact happens to each patch, and no other."""
    return AugmentSettings(artefacts=0, **{artefact: 1})


def drawn_artefacts(settings: AugmentSettings, side: int, seed: int) -> Augmentation:
    """Only the artefacts of a draw."""
    still = settings.model_copy(update={"warp": 0, "contrast": 0, "noise": 0})
    grey = draw_grey_change(still, side, seeded(seed))
    warp = draw_warp(still, seeded(0))
    return Augmentation(side, warp, grey, draw_artefacts(still, side, seeded(seed)))


def spoil_once(
    artefact: Artefact, image: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, what changed in it, and target with one artefact."""
    target = torch.ones(image.shape, dtype=torch.long)
    drawn = drawn_artefacts(only(artefact), len(image), seed)
    changed = image
    for each in drawn.artefacts:
        changed = each.apply(changed)
    return changed, changed - image, drawn.on_target(target)


def test_no_artefact_without_a_share() -> None:
    assert draw_artefacts(AugmentSettings(artefacts=0), 16, seeded(0)) == ()


def test_blur_smooths() -> None:
    image = torch.rand(64, 64, generator=seeded(0))
    changed, _, target = spoil_once("blur", image, 1)
    assert float(changed.std()) < 0.8 * float(image.std())
    assert float(changed.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    assert (target == 1).all()
    flat = torch.full((16, 16), 0.3)
    torch.testing.assert_close(spoil_once("blur", flat, 1)[0], flat)


def test_contrast_steps_along_a_line() -> None:
    image = torch.rand(64, 64, generator=seeded(0))
    changed, difference, target = spoil_once("contrast_step", image, 3)
    touched = difference != 0
    assert 0.02 < float(touched.float().mean()) < 0.98
    x, y = image[touched].numpy(), changed[touched].numpy()
    gain, offset = np.polyfit(x, y, 1)
    np.testing.assert_allclose(y, gain * x + offset, atol=1e-4)
    assert 0.7 <= gain <= 1.3
    assert -0.3 <= offset <= 0.3
    assert (target == 1).all()


def test_charging_fades_along_some_rows() -> None:
    image = torch.rand(200, 200, generator=seeded(0))
    _, difference, target = spoil_once("charging", image, 1)
    rows = difference.abs().amax(dim=1) > 1e-4
    assert 0.03 < float(rows.float().mean()) < 0.2
    strength = difference[rows].abs()
    assert (strength[:, 0] > strength[:, -1]).all()
    assert (torch.diff(strength, dim=1) < 1e-5).all()
    assert (target == 1).all()


def test_a_knife_mark_is_a_straight_scratch() -> None:
    image = torch.rand(128, 128, generator=seeded(0))
    widths = []
    for seed in range(12):
        _, difference, target = spoil_once("knife_mark", image, seed)
        assert len(torch.sign(difference[difference.abs() > 0.1]).unique()) == 1
        y, x = (difference.abs() > 0.35).nonzero().numpy().T
        assert 0.5 < float(difference.abs().max()) <= 0.7 + 1e-4
        points = np.stack([y - y.mean(), x - x.mean()])
        across, along = np.sqrt(np.linalg.eigvalsh(points @ points.T / len(y)))
        assert along > 5 * across  # a line
        widths.append(across * np.sqrt(12))
        assert (target == 1).all()
    assert max(widths) < 4.5


def test_a_blank_area_teaches_nothing() -> None:
    image = torch.rand(64, 64, generator=seeded(0))
    shares = []
    for seed in range(20):
        changed, _, target = spoil_once("missing_tissue", image, seed)
        gone = target == IGNORE
        shares.append(float(gone.float().mean()))
        assert (target[~gone] == 1).all()
        assert torch.equal(changed[~gone], image[~gone])
        assert len(changed[gone].unique()) <= 1
    assert max(shares) > 0.2


ARTEFACTS = get_args(Artefact)


def shares(settings: AugmentSettings) -> dict[str, float]:
    """Of 400 patches, by the name of the class that spoils them."""
    drawn = [draw_artefacts(settings, 32, seeded(s)) for s in range(400)]
    names = Counter(type(artefact).__name__ for each in drawn for artefact in each)
    return {name: n / 400 for name, n in names.items()}


def test_artefacts_share_one_number_where_none_has_its_own() -> None:
    """As settings and cards of before have it."""
    old = AugmentSettings.model_validate({"artefacts": 0.3})
    assert [old.share_with(name) for name in ARTEFACTS] == [0.3] * 5
    found = shares(old)
    assert len(found) == 5
    assert list(found.values()) == pytest.approx([0.3] * 5, abs=0.08)


def test_each_artefact_has_its_own_share() -> None:
    own = dict(zip(ARTEFACTS, (0.5, 0.1, 0.9, 0.0, 0.3), strict=True))
    found = shares(AugmentSettings(artefacts=1, **own))
    wanted = {
        "OutOfFocus": 0.5,
        "ContrastStep": 0.1,
        "Charging": 0.9,
        "MissingTissue": 0.3,
    }
    assert found == pytest.approx(wanted, abs=0.08)


def test_shares_are_read_back_as_they_are_written() -> None:
    settings = AugmentSettings(artefacts=0.2, charging=0)
    assert AugmentSettings(**settings.model_dump(mode="json")) == settings
    with pytest.raises(ValueError, match="blur"):
        AugmentSettings(blur=1.5)


EVERYTHING = AugmentSettings(artefacts=1, warp=1, invert=0.5)


def test_an_augmentation_is_replayed_on_image_and_labels() -> None:
    """A picture that is its own labels stays so where both can be seen."""
    drawn = draw_augmentation(only("missing_tissue"), SIDE, seeded(3))
    picture = (smooth() > 0).float()[None]
    where = drawn.positions(CENTRE)
    image, target = (sample(picture, where, "nearest")[0] for _ in range(2))
    hidden = drawn.on_target(target.long()) == IGNORE
    assert 0 < int(hidden.sum()) < hidden.numel()
    assert torch.equal(drawn.on_target(target.long())[~hidden], image.long()[~hidden])
    spoilt = drawn.artefacts[0].apply(image)
    assert torch.equal(spoilt[~hidden], image[~hidden])
    assert len(spoilt[hidden].unique()) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_same_seed_does_the_same_to_any_picture(seed: int) -> None:
    one, two = (draw_augmentation(EVERYTHING, SIDE, seeded(seed)) for _ in range(2))
    for picture in (smooth(), torch.rand(SIDE, SIDE, generator=seeded(9))):
        before = picture.clone()
        once, again, other = (
            drawn.on_image(sample(picture[None], drawn.positions(CENTRE), "bicubic")[0])
            for drawn in (one, one, two)
        )
        assert torch.equal(once, again)
        assert torch.equal(once, other)
        assert torch.equal(picture, before)
    # what is added to grey values doesn't depend on the picture
    dark, bright = torch.full((SIDE, SIDE), 0.2), torch.full((SIDE, SIDE), 0.8)
    noise = draw_grey_change(AugmentSettings(contrast=0), SIDE, seeded(seed))
    torch.testing.assert_close(noise.apply(dark) + 0.6, noise.apply(bright))


def test_a_patch_is_what_its_augmentation_makes_of_its_section() -> None:
    grey, classes = smooth(80), (smooth(80) > 0).float()
    section = Piece(grey[None], torch.stack([classes, torch.ones_like(grey)]))
    settings = TrainSettings(patch=SIDE, augment=EVERYTHING)
    image, target, weight = draw_patch(section, (40.0, 38.0), settings, seeded(2))
    drawn = draw_augmentation(EVERYTHING, SIDE, seeded(2))
    where = drawn.positions((40.0, 38.0))
    wanted = drawn.on_image(sample(grey[None], where, "bicubic")[0])
    assert torch.equal(image[0], wanted)
    labels = sample(classes[None], where, "nearest")[0].long()
    assert torch.equal(target, drawn.on_target(labels))
    assert (weight == 1).all()
