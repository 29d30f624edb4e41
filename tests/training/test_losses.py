from __future__ import annotations

from math import log

import pytest
import torch

from napari_emseg.core.training import LossName
from napari_emseg.models.zoo import Activation
from napari_emseg.training.losses import (
    IGNORE,
    LOSSES,
    bce_dice,
    cross_entropy,
    dice,
    soft_cross_entropy,
    supervised_loss,
)

# one row of three pixels; probability of class 1 is 3/4, 1/2, 9/10 by either ending
TARGET = torch.tensor([[[1, 0, 1]]])
WEIGHT = torch.tensor([[[1.0, 2.0, 1.0]]])
P = torch.tensor([0.75, 0.5, 0.9])


EVEN = torch.ones_like(WEIGHT)


def logits(activation: Activation) -> torch.Tensor:
    if activation == "softmax":
        return torch.stack([torch.zeros(3), torch.logit(P)])[None, :, None]
    return torch.stack([torch.logit(1 - P), torch.logit(P)])[None, :, None]


def test_cross_entropy_is_the_weighted_mean_over_pixels() -> None:
    by_hand = -(log(0.75) + 2 * log(0.5) + log(0.9)) / 4
    loss = cross_entropy(logits("softmax"), TARGET, WEIGHT, "softmax")
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_cross_entropy_of_sigmoids_sums_the_classes() -> None:
    by_hand = -2 * (log(0.75) + 2 * log(0.5) + log(0.9)) / 4
    loss = cross_entropy(logits("sigmoid"), TARGET, WEIGHT, "sigmoid")
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_bce_dice_by_hand(activation: Activation) -> None:
    entropy = -(log(0.75) + log(0.5) + log(0.9)) / 3
    # class 0 is right at the middle pixel, class 1 at the two others
    dice0 = 2 * 0.5 / ((0.25 + 0.5 + 0.1) + 1)
    dice1 = 2 * (0.75 + 0.9) / ((0.75 + 0.5 + 0.9) + 2)
    by_hand = 0.5 * entropy + 1 - (dice0 + dice1) / 2
    loss = bce_dice(logits(activation), TARGET, EVEN, activation)
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_dice_by_hand(activation: Activation) -> None:
    part0 = 0.5 / (0.25**2 + 0.5**2 + 0.1**2 + 1)
    part1 = (0.75 + 0.9) / (0.75**2 + 0.5**2 + 0.9**2 + 2)
    by_hand = 1 - 2 * 0.5 * (part0 + part1)
    loss = dice(logits(activation), TARGET, EVEN, activation)
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_pixel_of_weight_two_counts_as_two_pixels(
    name: LossName, activation: Activation
) -> None:
    """So the border weight, and balanced classes, do something in every loss."""
    twice = [0, 1, 1, 2]
    values = logits(activation)
    weighted = LOSSES[name](values, TARGET, WEIGHT, activation)
    repeated = LOSSES[name](
        values[..., twice], TARGET[..., twice], torch.ones(1, 1, 4), activation
    )
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-5)
    even = LOSSES[name](values, TARGET, EVEN, activation)
    assert float(weighted) != pytest.approx(float(even), rel=1e-3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_ignored_pixels_have_no_gradient(
    name: LossName, activation: Activation
) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 2, 5, 7, requires_grad=True)
    target = torch.randint(2, (2, 5, 7))
    target[:, :, ::2] = IGNORE
    loss = LOSSES[name](values, target, torch.ones(2, 5, 7), activation)
    (gradient,) = torch.autograd.grad(loss, values)
    ignored = (target == IGNORE)[:, None].expand_as(values)
    assert not gradient[ignored].any()
    assert gradient[~ignored].abs().min() > 0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_nothing_known_is_no_loss_that_teaches(
    name: LossName, activation: Activation
) -> None:
    values = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.full((1, 4, 4), IGNORE)
    loss = LOSSES[name](values, target, torch.ones(1, 4, 4), activation)
    (gradient,) = torch.autograd.grad(loss, values)
    assert torch.isfinite(loss)
    assert not gradient.any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_right_answer_costs_less(name: LossName, activation: Activation) -> None:
    target = torch.randint(3, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    right = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) * 20.0 - 10
    weight = torch.ones(1, 8, 8)
    good = LOSSES[name](right, target, weight, activation)
    bad = LOSSES[name](-right, target, weight, activation)
    assert float(good) == pytest.approx(0, abs=1e-3)
    assert bad > 0.5


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_a_teacher_says_is_learnt_by_its_probabilities(
    activation: Activation,
) -> None:
    own = (torch.zeros(1, 2, 1, 3)).requires_grad_()
    teacher = logits(activation).requires_grad_()
    q = P.double()
    half = (q * (q / 0.5).log() + (1 - q) * ((1 - q) / 0.5).log()).tolist()
    by_hand = (half[0] + 2 * half[1] + half[2]) / 4
    # two sigmoids say the same twice
    by_hand *= 2 if activation == "sigmoid" else 1
    lost = soft_cross_entropy(own, teacher, WEIGHT, activation)
    assert lost.item() == pytest.approx(by_hand, rel=1e-5)
    lost.backward()
    assert teacher.grad is None
    # towards class 1 where the teacher says 3/4 and 9/10, nowhere at 1/2
    towards = -own.grad[0, 1, 0]
    assert towards[0] > 0
    assert towards[1] == 0
    assert towards[2] > towards[0]
    same = soft_cross_entropy(teacher.detach(), teacher, WEIGHT, activation)
    assert float(same) == pytest.approx(0, abs=1e-7)


def test_only_shallower_heads_have_a_teacher() -> None:
    shallow = torch.zeros(1, 2, 1, 3, requires_grad=True)
    deep = logits("softmax").requires_grad_()

    def taught(share: float) -> torch.Tensor:
        return supervised_loss(
            [shallow, deep],
            TARGET,
            WEIGHT,
            "softmax",
            loss=cross_entropy,
            self_distillation=share,
        )

    own = cross_entropy(deep, TARGET, WEIGHT, "softmax")
    soft = soft_cross_entropy(shallow, deep, WEIGHT, "softmax")
    hard = cross_entropy(shallow, TARGET, WEIGHT, "softmax")
    assert taught(0).item() == pytest.approx((hard + own).item() / 2, rel=1e-6)
    assert taught(1).item() == pytest.approx((soft + own).item() / 2, rel=1e-6)
    (before,) = torch.autograd.grad(taught(0), deep)
    (after,) = torch.autograd.grad(taught(1), deep)
    # the teacher itself learns from labels, whoever follows it
    assert torch.equal(before, after)


def test_a_teacher_says_nothing_where_nothing_is_known() -> None:
    nothing = torch.full_like(TARGET, IGNORE)
    heads = [torch.zeros(1, 2, 1, 3), logits("softmax")]
    for share in (0.0, 0.5, 1.0):
        lost = supervised_loss(
            heads,
            nothing,
            WEIGHT,
            "softmax",
            loss=cross_entropy,
            self_distillation=share,
        )
        assert float(lost) == 0
