"""Regions and pictures in, what training measures and learns by out.

All of it goes through the loop of runs (`assembly.iter_tiles`), so that weights are
judged by what they give to users.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_emseg.core.intensity import GreyRange
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Normalisation, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.symmetry import MIRRORED, SYMMETRIES, iter_symmetries
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference.assembly import Assembly, iter_tiles
from napari_emseg.inference.engine import Engine
from napari_emseg.inference.plan import RunPlan
from napari_emseg.inference.precision import unreduced
from napari_emseg.inference.predictor import Predictor
from napari_emseg.inference.runtime import Runtime, TTARuntime, load_runtime
from napari_emseg.inference.scope import PredictionScope, scope_of
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.inference.torch_runtime import TorchRuntime
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import (
    ContextConfig,
    Network,
    affinities_of,
    context_of,
)

AS_IT_IS = Normalisation()
"""Of pictures that are normalised already; nobody looks at it."""


class RegionPredictor:
    """Predicts regions as `Predictor.run` does for users; keeps the last section.

    Parameters
    ----------
    settings
        As of runs. `invert` is said for each stack, and a depth that the weights don't
        have is that of the weights.
    load
        As of `Predictor`.
    """

    def __init__(
        self,
        weights: Weights,
        settings: PredictSettings | None = None,
        load: Callable[[Weights, PredictSettings], Runtime] | None = None,
    ) -> None:
        self.weights = weights
        self._settings = fitting(weights, settings or PredictSettings())
        self._predictor = Predictor(
            weights, remember=True, load=load, settles="nothing"
        )

    def as_it_is(self) -> RegionPredictor:
        """Return one for all of the weights, to no other depth and turned no way."""
        update = {"depth": None, "heads": "last", "tta": False}
        settings = self._settings.model_copy(update=update)
        if settings == self._settings:
            return self
        return RegionPredictor(self.weights, settings)

    @property
    def threshold(self) -> float:
        """Of membrane, for weights that are run in this way."""
        s = self._settings
        return self.weights.card.threshold_of(s.depth, s.heads, tta=s.tta)

    def open(
        self, stack: Stack, z: int, *, invert: bool, excluded: Collection[int] = ()
    ) -> Section:
        """Return section `z` as the network sees it.

        Parameters
        ----------
        excluded
            Sections that a network with context isn't shown beside it.

        Raises
        ------
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        settings = self._inverting(invert=invert)
        return self._predictor.open(stack, z, settings, excluded=excluded)

    def membrane(
        self,
        stack: Stack,
        region: Region,
        *,
        invert: bool,
        excluded: Collection[int] = (),
    ) -> NDArray[np.float32] | None:
        """Return probabilities `(y, x)` of a region; None if its section is blank.

        Raises
        ------
        OSError, ValueError
            As `open`.
        """
        found = self.probabilities(
            stack, region, invert=invert, excluded=excluded, classes=("membrane",)
        )
        return None if found is None else found[0]

    def probabilities(
        self,
        stack: Stack,
        region: Region,
        *,
        invert: bool,
        excluded: Collection[int] = (),
        classes: Sequence[str] | None = None,
    ) -> NDArray[np.float32] | None:
        """Return probabilities `(c, y, x)` of what pixels may be; see `membrane`.

        By default all of the card's `pixel_classes`.
        """
        if self.open(stack, region.z, invert=invert, excluded=excluded).blank:
            return None
        run = self._predictor.run(
            stack,
            settings=self._inverting(invert=invert),
            sections=(region.z,),
            roi=region.area,
            classes=self.weights.card.pixel_classes if classes is None else classes,
            excluded=excluded,
        )
        found = drain(run).probabilities
        return None if found is None else found[:, 0]

    def _inverting(self, *, invert: bool) -> PredictSettings:
        wanted = "yes" if invert else "no"
        return self._settings.model_copy(update={"invert": wanted})


def fitting(weights: Weights, settings: PredictSettings) -> PredictSettings:
    """Return settings by which weights can be run, whatever others are set to.

    Regions are seen in their sections only. Weights are judged exactly: not in bf16 or
    int8, which some machines don't have.
    """
    settings = unreduced(settings).model_copy(update={"views": 1})
    try:
        weights.at(settings.depth, settings.heads)
    except ValueError:
        return settings.model_copy(update={"depth": None, "heads": "last"})
    return settings


class DoubtPredictor(RegionPredictor):
    """Predicts membrane, and how much it is in doubt.

    Doubt is the standard deviation of the heads' probabilities, at most 0.5, or, of a
    network without several heads, of those of the picture and its mirror images: one
    more pass, or none if those are averaged anyway.
    """

    def __init__(
        self, weights: Weights, settings: PredictSettings | None = None
    ) -> None:
        super().__init__(weights, settings, _with_doubt)
        self.by_heads = has_heads(_widest(self._part()))

    def _part(self) -> Weights:
        return self.weights.at(self._settings.depth, self._settings.heads)

    def membrane_and_doubt(
        self,
        stack: Stack,
        region: Region,
        *,
        invert: bool,
        excluded: Collection[int] = (),
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return both `(y, x)` of a region, 0 in padding; None if its section is blank.

        Raises
        ------
        OSError, ValueError
            As `open`.
        """
        if self.open(stack, region.z, invert=invert, excluded=excluded).blank:
            return None
        settings = self._inverting(invert=invert)
        scope = scope_of(
            stack,
            self._part().card,
            settings,
            sections=(region.z,),
            roi=region.area,
            excluded=excluded,
        )
        scope = replace(scope, channels=(0, 1))
        assembly = Assembly(scope, None, keep=True, squeeze=False)
        found = drain(self._predictor.run_scope(scope, settings, assembly))
        p, doubt = cast("NDArray[np.float32]", found.probabilities)[:, 0]
        return p, doubt


def has_heads(network: nn.Module) -> bool:
    """Tell if a network has several heads, whose doubt costs no extra pass."""
    return len(getattr(network, "depths", ())) > 1


def _widest(weights: Weights) -> nn.Module:
    """Build a network with all heads up to the one that is run."""
    if weights.depth is None or weights.heads == "mean":
        return weights.network()
    try:
        return weights.at(weights.depth, "mean").network()
    except ValueError:  # only one head is there
        return weights.network()


def _with_doubt(weights: Weights, settings: PredictSettings) -> Runtime:
    """Load a runtime that gives membrane and doubt in place of classes."""
    network = _widest(weights)
    if not has_heads(network):
        turned = SYMMETRIES if settings.tta else MIRRORED
        runtime = load_runtime(weights, settings, network)
        return DoubtRuntime(runtime, turned, mean=settings.tta)
    own = getattr(getattr(network, "config", None), "heads", "last")
    mean = weights.heads == "mean" or (weights.depth is None and own == "mean")
    runtime = load_runtime(weights, settings, HeadsAsClasses(network))
    return DoubtRuntime(TTARuntime(runtime) if settings.tta else runtime, mean=mean)


class HeadsAsClasses(nn.Module):
    """A network whose classes are what the heads of another one say of membrane."""

    activation = "sigmoid"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def _kind(self) -> Network:
        return cast("Network", self.network)

    @property
    def geometry(self) -> Geometry:
        """Of the network."""
        return self._kind.geometry

    @property
    def bytes_per_pixel(self) -> float:
        """Of the network."""
        return self._kind.bytes_per_pixel

    @property
    def config(self) -> ContextConfig:
        """What it sees; it has no affinities."""
        return ContextConfig(context=context_of(self.network))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of membrane `(n, heads, y, x)`, the deepest head last."""
        classes = slice(0, -len(affinities_of(self.network)) or None)
        heads = [head[:, classes] for head in self._kind.supervised(x)]
        if self._kind.activation == "softmax":
            # of two classes, membrane and all else, softmax is the sigmoid of this
            heads = [h[:, :1] - h[:, 1:].logsumexp(1, keepdim=True) for h in heads]
        return torch.cat([h[:, :1] for h in heads], dim=1)


class DoubtRuntime:
    """Gives membrane and its doubt, the deviation of several opinions of it.

    Opinions are the classes of a runtime (see `HeadsAsClasses`), or what it says of
    membrane where windows are turned.

    Parameters
    ----------
    turned
        Symmetries, the first of which changes nothing; none if classes are opinions.
    mean
        Membrane is the mean of the opinions. Else it is the last head's, or what is
        said of the window as it is.
    """

    def __init__(
        self,
        runtime: Runtime,
        turned: Sequence[tuple[int, bool]] = (),
        *,
        mean: bool,
    ) -> None:
        self._runtime = runtime
        self._turned = turned
        self._mean = mean
        self.name = runtime.name
        self.device = runtime.device
        self.context = runtime.context
        self.geometry = runtime.geometry
        self.bytes_per_pixel = runtime.bytes_per_pixel
        self.notes = runtime.notes

    @property
    def precision(self) -> str:
        """Of the network."""
        return self._runtime.precision

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return membrane and doubt `(n, 2, y', x')`."""
        if self._turned:
            found = iter_symmetries(self._runtime, batch, self._turned)
            opinions = np.concatenate([each[:, :1] for each in found], axis=1)
        else:
            opinions = self._runtime(batch)
        own = opinions[:, 0] if self._turned else opinions[:, -1]
        membrane = opinions.mean(axis=1) if self._mean else own
        return np.stack([membrane, opinions.std(axis=1)], axis=1)

    def free_memory(self) -> int:
        """Bytes that a run may use on the device at this moment."""
        return self._runtime.free_memory()

    def release(self) -> None:
        """Give back what is held only to be faster next time."""
        self._runtime.release()


class NetworkPredictor:
    """Predicts normalised pictures by a network that is at hand, such as in training.

    By PyTorch in float32 where the network is, since one that learns is another one
    after the next step: no other runtime is worth its loading.

    Parameters
    ----------
    network
        A copy is made, so that training may go on.
    tta
        Average over mirrors and rotations.
    """

    def __init__(self, network: nn.Module, *, tta: bool = False) -> None:
        device = next(network.parameters()).device
        runtime: Runtime = TorchRuntime(network, device, half=False)
        turned = TTARuntime(runtime, affinities_of(network))
        self._runtime = turned if tta else runtime
        self._free = runtime.free_memory()

    def probabilities(
        self, picture: NDArray[np.float32], n_classes: int = 1
    ) -> NDArray[np.float32]:
        """Return probabilities `(n_classes, y, x)` of the first classes.

        Parameters
        ----------
        picture
            `(y, x)`, or `(context, y, x)` of a network that sees several sections.
        """
        seen = picture.reshape(-1, *picture.shape[-2:])
        y, x = seen.shape[1:]
        scope = PredictionScope(
            stack=Stack(seen),
            sections=(0,),
            roi=(slice(0, y), slice(0, x)),
            zoom=(1.0, 1.0),
            channels=tuple(range(n_classes)),
            rule=AS_IT_IS,
            notes=(),
            context=len(seen),
        )
        assembly = Assembly(scope, None, keep=True, squeeze=False)
        plan = RunPlan(scope, PredictSettings())
        plan.fit(self._runtime, self._free)
        engine = Engine(plan, self._runtime)
        pictures = _Pictures(scope.stack)
        drain(iter_tiles(plan, pictures, engine, assembly, ahead=False))
        return cast("NDArray[np.float32]", assembly.probabilities)[:, 0]


class _Pictures(SectionReader):
    """Opens one picture that is normalised already, `(context, y, x)`."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack, AS_IT_IS, invert=False)

    def open(self, z: int) -> Section:
        """Return the picture."""
        seen = np.asarray(self._stack.data)
        return _Picture(
            z=z,
            grey=GreyRange(0, 1),
            invert=False,
            blank=False,
            read=lambda area: seen[(slice(None), *area)],
            empty=None,
        )


class _Picture(Section):
    """A section whose values, and its neighbours', are as a network sees them."""

    def windows(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return grey values of an area."""
        return self.read((rows, columns))
