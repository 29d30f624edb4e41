"""Windows in, probabilities of them less their margin out; gradients of kernels."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from napari_emseg.models.zoo import Network, affinities_of


def to_probabilities(logits: Tensor, network: nn.Module) -> Tensor:
    """Return float32 probabilities `(n, channels, y, x)` by the network's own end.

    Classes may exclude one another; each affinity is a probability of its own.
    """
    if cast("Network", network).activation == "sigmoid":
        return logits.float().sigmoid()
    n = len(affinities_of(network))
    if n == 0:
        return logits.float().softmax(dim=1)
    classes, affinities = logits[:, :-n].float(), logits[:, -n:].float()
    return torch.cat([classes.softmax(dim=1), affinities.sigmoid()], dim=1)


def inner_logits(network: nn.Module, window: Tensor) -> Tensor:
    """Return logits of windows `(n, context, y, x)` less the margin of their geometry.

    Networks with a method `inner` are asked to compute no more than that.
    """
    inner = getattr(network, "inner", None)
    if inner is not None:
        logits: Tensor = inner(window)
        return logits
    geometry = cast("Network", network).geometry
    # what a `valid` network has cut off by itself isn't cut again
    cut = geometry.margin - geometry.trim
    logits = network(window)
    return logits[:, :, cut : logits.shape[2] - cut, cut : logits.shape[3] - cut]


def fast_gradients() -> AbstractContextManager[object]:
    """Return a context in which convolutions get their kernels' gradients faster.

    On CPUs with AVX2 and no AVX-512 the gradients are sums of matrix products: oneDNN
    takes two to three times as long there where kernels have many channels in. On
    others it does nothing, and with several threads neither: on busy cores they would
    wait for each other after each product. Gradients differ by rounding.
    """
    alone = torch.get_num_threads() == 1
    if alone and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return _MatrixGradients()
    return nullcontext()


CHANNELS, NUMBERS = 32, 2**17
"""From so many channels, and numbers in a picture, on matrix products are faster."""


class _MatrixGradients(TorchFunctionMode):
    """Takes the place of convolutions whose kernels' gradients it makes faster."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        transposed = func is torch.conv_transpose2d
        if (transposed or func is torch.conv2d) and not kwargs:
            found = _Convolution.of(args, transposed=transposed)
            if found is not None:
                return found
        return func(*args, **kwargs or {})


def _is_large(x: Tensor) -> bool:
    return x.shape[1] >= CHANNELS and x[0].numel() >= NUMBERS


class _Convolution(torch.autograd.Function):
    """A convolution that gets its kernel's gradient by `kernel_gradient`."""

    @classmethod
    def of(cls, args: Sequence[Any], *, transposed: bool) -> Tensor | None:
        """Return the result, or None if PyTorch's own gradient is as fast."""
        if len(args) != (8 if transposed else 7):
            return None  # not as modules call it
        x, weight, bias, stride, padding, *others = args
        shift, groups, dilation = others if transposed else ((0, 0), *others[::-1])
        side = weight.shape[2]
        # an enlarged picture whose windows overlap takes as long either way
        strides = (side,) if transposed else (1,)
        fits = (
            (weight.shape[3], groups, dilation) == (side, 1, (1, 1))
            and (transposed or side == 3)
            and stride in [(s, s) for s in strides]
            and padding in [(p, p) for p in range(side)]
        )
        learns = torch.is_grad_enabled() and weight.requires_grad
        plain = x.dtype == torch.float32 and x.device.type == "cpu"
        if not (fits and learns and plain and _is_large(x)):
            return None
        out: Tensor = cls.apply(x, weight, bias, stride, padding, shift, transposed)  # type: ignore[no-untyped-call]
        return out

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *args: Any) -> Tensor:
        """Convolve as PyTorch does."""
        bias, stride, padding, shift, transposed = args
        ctx.save_for_backward(x, weight)
        # dilation before, groups after
        ctx.how = stride, padding, (1, 1), transposed, shift, 1
        return torch.convolution(x, weight, bias, *ctx.how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of picture, kernel and bias."""
        x, weight = (t.contiguous(memory_format=_LAST) for t in ctx.saved_tensors)
        gradient = gradient.contiguous(memory_format=_LAST)
        (step, _), (padding, _), _, transposed, *_ = ctx.how
        side = weight.shape[2]
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *ctx.how, (True, False, False)
            )
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        if transposed:
            found = kernel_gradient(gradient, x, side, step, padding)
            of_kernel = found.permute(3, 2, 0, 1)
        else:
            # correlated the other way round: what is unfolded has fewer channels
            found = kernel_gradient(gradient, x, side, 1, side - 1 - padding)
            of_kernel = found.flip(0, 1).permute(2, 3, 0, 1)
        return of_x, of_kernel, of_bias, *[None] * 4


_LAST = torch.channels_last

PIXELS = 4096
"""Of a strip: what is made of it stays in the cache."""


def kernel_gradient(
    fine: Tensor, coarse: Tensor, side: int, stride: int, padding: int
) -> Tensor:
    """Return Σ fine[y·stride + ky - padding, x·stride + kx - padding] coarse[y, x].

    The sum over pixels and pictures, for each ky and kx below `side`, and each pair of
    channels: `(side, side, of fine, of coarse)`. Both are `(n, c, y, x)`, channels last
    in memory; beyond its border `fine` is 0.
    """
    width, n = coarse.shape[3], coarse.shape[1]
    rows = min(coarse.shape[2], max(1, PIXELS // width))
    strip = _Strip.of(fine, (rows, width), side, stride)
    found = fine.new_zeros(side, side * fine.shape[1], n)
    pictures = zip(*(t.permute(0, 2, 3, 1) for t in (fine, coarse)), strict=True)
    for (picture, values), y in product(pictures, range(0, coarse.shape[2], rows)):
        part = values[y : y + rows]
        strip.unfold(picture, y * stride - padding, padding)
        for ky in range(side):
            left = strip.rows(ky, len(part)).flatten(0, 1)
            found[ky].addmm_(left.T, part.flatten(0, 1))
    return found.view(side, side, -1, n)


@dataclass(frozen=True, slots=True, eq=False)
class _Strip:
    """Some rows of a picture with all that a row of a kernel sees of each pixel.

    `padded` is `(y, x, c)`; `unfolded` `(stride, y, x, side · c)`, rows of which every
    `stride`-th is used together lie together.
    """

    padded: Tensor
    unfolded: Tensor
    stride: int

    @classmethod
    def of(cls, like: Tensor, shape: tuple[int, int], side: int, stride: int) -> Self:
        """Return an empty one for `shape` `(y, x)` of what is coarse."""
        c, (height, width) = like.shape[1], shape
        height += ceil(side / stride) - 1
        padded = like.new_zeros(height * stride, (width - 1) * stride + side, c)
        return cls(padded, like.new_empty(stride, height, width, side * c), stride)

    def unfold(self, picture: Tensor, top: int, left: int) -> None:
        """Take rows of a picture `(y, x, c)` from `top` on, with `left` px before."""
        height, width = self.padded.shape[:2]
        first, last = max(0, top), min(len(picture), top + height)
        if (first, last) != (top, top + height):
            self.padded.zero_()
        there = picture[first:last, : width - left]
        self.padded[first - top : last - top, left : left + there.shape[1]] = there
        y, x, c = self.padded.stride()
        steps = y, y * self.stride, x * self.stride, c
        self.unfolded.copy_(self.padded.as_strided(self.unfolded.shape, steps))

    def rows(self, ky: int, n: int) -> Tensor:
        """Return what row `ky` of the kernel sees from `n` rows, `(n, x, side · c)`."""
        return self.unfolded[ky % self.stride, ky // self.stride :][:n]
