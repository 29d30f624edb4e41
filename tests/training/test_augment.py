from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_emseg.core.training import AugmentSettings
from napari_emseg.training import augment
from napari_emseg.training.augment import (
    Warp,
    add_artefacts,
    change_grey,
    draw_warp,
    positions,
    sample,
)
from napari_emseg.training.losses import IGNORE

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
    image = torch.linspace(0, 1, 1000).view(20, 50)
    settings = AugmentSettings(contrast=0.3, noise=0)
    for seed in range(30):
        changed = change_grey(image, settings, seeded(seed))
        assert (torch.diff(changed.ravel()) > 0).all()  # dark stays dark
        gain = float(changed.max() - changed.min())
        assert 0.7 <= gain <= 1.3
        assert abs(float((changed.max() + changed.min()) / 2) - 0.5) <= 0.15 + 1e-6
    still = AugmentSettings(contrast=0, noise=0)
    torch.testing.assert_close(change_grey(image, still, seeded(0)), image)


def test_noise_has_at_most_its_standard_deviation() -> None:
    settings = AugmentSettings(contrast=0, noise=0.2)
    deviations = [
        float(change_grey(torch.full((64, 64), 0.5), settings, seeded(s)).std())
        for s in range(20)
    ]
    assert max(deviations) < 0.21
    assert max(deviations) > 0.1
    assert min(deviations) < 0.1


def spoiled_by(monkeypatch: pytest.MonkeyPatch, name: str) -> AugmentSettings:
    """Settings with which only the artefact of that name happens."""

    def leave(image: Tensor, *_args: object) -> Tensor:
        return image

    def leave_both(image: Tensor, target: Tensor, _rng: object) -> tuple[Tensor, ...]:
        return image, target

    for other in ("_blur", "_contrast_step", "_charging", "_knife_mark"):
        if other != name:
            monkeypatch.setattr(augment, other, leave)
    if name != "_blank":
        monkeypatch.setattr(augment, "_blank", leave_both)
    return AugmentSettings(artefacts=1)


def spoil_once(
    monkeypatch: pytest.MonkeyPatch, name: str, image: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    target = torch.ones(image.shape, dtype=torch.long)
    settings = spoiled_by(monkeypatch, name)
    changed, after = add_artefacts(image, target, settings, seeded(seed))
    return changed, changed - image, after


def test_no_artefact_without_a_chance() -> None:
    image, target = torch.rand(16, 16), torch.ones(16, 16, dtype=torch.long)
    same, also = add_artefacts(image, target, AugmentSettings(artefacts=0), seeded(0))
    assert same is image
    assert also is target


def test_blur_smooths(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(64, 64, generator=seeded(0))
    changed, _, target = spoil_once(monkeypatch, "_blur", image, 1)
    assert float(changed.std()) < 0.8 * float(image.std())
    assert float(changed.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    assert (target == 1).all()
    flat = torch.full((16, 16), 0.3)
    torch.testing.assert_close(spoil_once(monkeypatch, "_blur", flat, 1)[0], flat)


def test_contrast_steps_along_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(64, 64, generator=seeded(0))
    changed, difference, target = spoil_once(monkeypatch, "_contrast_step", image, 3)
    touched = difference != 0
    assert 0.02 < float(touched.float().mean()) < 0.98
    x, y = image[touched].numpy(), changed[touched].numpy()
    gain, offset = np.polyfit(x, y, 1)
    np.testing.assert_allclose(y, gain * x + offset, atol=1e-4)
    assert 0.7 <= gain <= 1.3
    assert -0.3 <= offset <= 0.3
    assert (target == 1).all()


def test_charging_fades_along_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(200, 64, generator=seeded(0))
    _, difference, target = spoil_once(monkeypatch, "_charging", image, 1)
    rows = difference.abs().amax(dim=1) > 1e-4
    assert 0.03 < float(rows.float().mean()) < 0.2
    strength = difference[rows].abs()
    assert (strength[:, 0] > strength[:, -1]).all()
    assert (torch.diff(strength, dim=1) < 1e-5).all()
    assert (target == 1).all()


def test_a_knife_mark_is_a_straight_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(128, 128, generator=seeded(0))
    widths = []
    for seed in range(12):
        _, difference, target = spoil_once(monkeypatch, "_knife_mark", image, seed)
        assert len(torch.sign(difference[difference.abs() > 0.1]).unique()) == 1
        y, x = (difference.abs() > 0.35).nonzero().numpy().T
        assert 0.5 < float(difference.abs().max()) <= 0.7 + 1e-4
        points = np.stack([y - y.mean(), x - x.mean()])
        across, along = np.sqrt(np.linalg.eigvalsh(points @ points.T / len(y)))
        assert along > 5 * across  # a line
        widths.append(across * np.sqrt(12))
        assert (target == 1).all()
    assert max(widths) < 4.5


def test_a_blank_area_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(64, 64, generator=seeded(0))
    shares = []
    for seed in range(20):
        changed, _, target = spoil_once(monkeypatch, "_blank", image, seed)
        gone = target == IGNORE
        shares.append(float(gone.float().mean()))
        assert (target[~gone] == 1).all()
        assert torch.equal(changed[~gone], image[~gone])
        assert len(changed[gone].unique()) <= 1
    assert max(shares) > 0.2


def test_artefacts_have_the_chance_of_the_settings() -> None:
    image, target = torch.rand(32, 32), torch.ones(32, 32, dtype=torch.long)
    settings = AugmentSettings(artefacts=0.1)
    untouched = [
        add_artefacts(image, target, settings, seeded(s))[0] is image
        for s in range(400)
    ]
    assert np.mean(untouched) == pytest.approx(0.9**5, abs=0.08)
