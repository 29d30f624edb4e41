"""Several stacks with labels in, one weights file that has learnt from all of them out.

All are resampled to one pixel size. How often patches come from each is chosen, so that
a large stack doesn't drown a small one, and the best weights are those that are best in
the mean over stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor, nn

from napari_emseg.core.card import Card, Offset
from napari_emseg.core.intensity import zoom_of
from napari_emseg.core.labels import Meaning
from napari_emseg.core.records import Note, Record
from napari_emseg.core.stack import Stack, check_voxel_size
from napari_emseg.core.tiles import Axis
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.encoders import load_encoder
from napari_emseg.models.parts import with_context
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import Network, affinities_of, build, context_of
from napari_emseg.training.affinities import UNKNOWN
from napari_emseg.training.card import Split, fill_in
from napari_emseg.training.dataset import Example, Neighbour, read_examples
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.patches import PatchSource, stacked
from napari_emseg.training.run import (
    check_split,
    checkpoint_of,
    facts_of,
    labelled_split,
    scorable,
)
from napari_emseg.training.trainer import Trainer
from napari_emseg.training.validation import Validation, inside_of, truth_of

Views = Literal[1, 3]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledStack:
    """A stack with labels, as one of several.

    Parameters
    ----------
    name
        By which its scores are called.
    images, labels
        `(z, y, x)` of one shape; the images' voxel size says how they are resampled.
    share
        How often patches come from it, beside the other sources' shares.
    unlabelled_beyond
        Of labels that are cells: zeros farther than so many px from any cell are not
        membrane, but something nobody has labelled. None if every zero is membrane.
    views
        3: patches are cut along all three axes, for stacks whose voxels are about as
        deep as they are wide.
    """

    name: str
    images: Stack
    labels: Stack
    meaning: Meaning
    split: Split
    share: float = 1.0
    unlabelled_beyond: float | None = None
    views: Views = 1


def examples_of(
    source: LabelledStack,
    sections: Sequence[int],
    pixel_size_nm: tuple[float, float],
    *,
    context: int = 1,
    affinities: Sequence[Offset] = (),
) -> list[Example]:
    """Read sections of a source, resampled to a pixel size `(y, x)`.

    Parameters
    ----------
    context, affinities
        As in `read_examples`.

    Raises
    ------
    ValueError
        If images and labels don't match, or the images' voxel size isn't known.
    """
    if source.images.voxel_size_nm is None:
        msg = f"{source.name}: its voxel size must be known, to be resampled"
        raise ValueError(msg)
    if not sections:
        return []
    card = Card(name="", architecture="", pixel_size_nm=pixel_size_nm)
    zoom, _ = zoom_of(source.images, card)
    read = read_examples(
        source.images,
        source.labels,
        source.meaning,
        sections=sections,
        context=context,
        affinities=affinities,
    )
    if source.unlabelled_beyond is not None:
        for example in read:
            # before resampling, in source pixels, in which the setting is
            deep = ndi.distance_transform_edt(example.target != INSIDE)
            unlabelled = deep > source.unlabelled_beyond
            example.target[unlabelled] = IGNORE
            if example.ids is not None:  # neighbours have the same array
                example.ids[unlabelled] = UNKNOWN
    shared: dict[int, NDArray[Any]] = {}
    return [resampled(example, zoom, shared) for example in read]


def sources_along(source: LabelledStack) -> list[LabelledStack]:
    """Return a source for each axis that it is cut along; itself is the first.

    Of the others only the longest run of training sections is there, and all that they
    give is learnt from.

    Raises
    ------
    ValueError
        If there are several, and the voxel size isn't known along all axes.
    """
    if source.views == 1:
        return [source]
    if None in (source.images.voxel_size_nm or (None,)):
        msg = f"{source.name}: its voxel size must be known to be cut along all axes"
        raise ValueError(msg)
    run = _longest_run(source.split.training)
    found = [source]
    for axis in (1, 2):
        order = (axis, *(k for k in range(3) if k != axis))
        images, labels = (
            _turned(stack, run, order) for stack in (source.images, source.labels)
        )
        split = Split(tuple(range(images.shape[0])))
        name = f"{source.name} along {'zyx'[axis]}"
        turned = replace(source, name=name, images=images, labels=labels, split=split)
        found.append(turned)
    return found


def _longest_run(sections: Sequence[int]) -> slice:
    ordered = sorted(sections)
    starts = [z for z in ordered if z - 1 not in ordered]
    runs = [[z for z in ordered if z >= start] for start in starts]
    lengths = [next(k for k in range(len(r) + 1) if r[0] + k not in r) for r in runs]
    longest = int(np.argmax(lengths))
    return slice(starts[longest], starts[longest] + lengths[longest])


def _turned(stack: Stack, run: slice, order: Sequence[int]) -> Stack:
    """Return a run of sections with its axes in another order."""
    sections = [stack.section(z) for z in range(run.start, run.stop)]
    size = stack.voxel_size_nm
    turned = None if size is None else check_voxel_size([size[k] for k in order])
    data = np.stack(sections).transpose(order)
    return replace(stack, data=data, voxel_size_nm=turned)


def resampled(
    example: Example,
    zoom: tuple[float, float],
    shared: dict[int, NDArray[Any]] | None = None,
) -> Example:
    """Resample as a run does; membrane is where at least half of a pixel was.

    Parameters
    ----------
    shared
        What was resampled of arrays that several examples have, by their identity.
    """
    if zoom == (1.0, 1.0):
        return example
    known = {} if shared is None else shared

    def beside(near: Neighbour) -> Neighbour:
        ids = None if near.ids is None else once(near.ids, _nearest)
        return Neighbour(once(near.image, _resampled), ids)

    def once(values: NDArray[Any], how: Resample) -> NDArray[Any]:
        if id(values) not in known:
            known[id(values)] = how(values, zoom)
        return known[id(values)]

    image = once(example.image, _resampled)
    wall = _resampled((example.target == MEMBRANE).astype(np.float32), zoom)
    unknown = _resampled((example.target == IGNORE).astype(np.float32), zoom)
    target = np.where(wall >= 0.5, MEMBRANE, INSIDE).astype(np.uint8)
    # a pixel that is partly unknown has no sure share of membrane
    target[unknown > 0] = IGNORE
    ids = None if example.ids is None else once(example.ids, _nearest)
    if ids is not None:
        ids[target == IGNORE] = UNKNOWN
    below, above = (tuple(map(beside, side)) for side in (example.below, example.above))
    return replace(
        example, image=image, target=target, ids=ids, below=below, above=above
    )


Resample = Callable[[NDArray[Any], tuple[float, float]], NDArray[Any]]


def _nearest(ids: NDArray[Any], zoom: tuple[float, float]) -> NDArray[Any]:
    """Return the id under the middle of each pixel."""
    rows, columns = (
        np.minimum(
            ((np.arange(Axis(n, by).network_size) + 0.5) / by).astype(int), n - 1
        )
        for n, by in zip(ids.shape, zoom, strict=True)
    )
    found: NDArray[Any] = ids[np.ix_(rows, columns)]
    return found


def _resampled(
    values: NDArray[np.float32], zoom: tuple[float, float]
) -> NDArray[np.float32]:
    for index, factor in enumerate(zoom):
        axis = Axis(values.shape[index], factor)
        values = axis.to_network(0, axis.network_size).apply(values, index, 0)
    return values


class MixedPatches:
    """Draws each patch from one of several sources, by their shares."""

    def __init__(
        self,
        sources: Sequence[PatchSource],
        shares: Sequence[float],
        settings: TrainSettings,
    ) -> None:
        self._sources = sources
        self._shares = torch.tensor(shares)
        self._settings = settings

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, target and weight, see `Patches`."""
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        drawn = torch.multinomial(
            self._shares, self._settings.batch, replacement=True, generator=rng
        )
        return stacked([self._sources[int(which)].patch(rng) for which in drawn])


def mixed_validation(sets: Mapping[str, Sequence[Example]]) -> Validation:
    """Validate by V_Rand and V_Info of each set, and their means over sets.

    The threshold is the one with the best mean V_Rand; each set's scores are at its
    own best.
    """

    def validate(network: nn.Module) -> dict[str, float]:
        from napari_emseg.metrics import v_rand_v_info

        network.eval()
        found = {
            name: v_rand_v_info(inside_of(network, examples), truth_of(examples))
            for name, examples in sets.items()
        }
        # one threshold for all sets, since the weights have one card
        curves = np.mean([scores.rand.curve for scores in found.values()], axis=0)
        thresholds = next(iter(found.values())).rand.thresholds
        v_rand = float(curves.max())
        v_info = float(np.mean([scores.v_info for scores in found.values()]))
        each = {f"{name}_v_rand": scores.v_rand for name, scores in found.items()}
        each |= {f"{name}_v_info": scores.v_info for name, scores in found.items()}
        return {
            "score": (v_rand + v_info) / 2,
            "v_rand": v_rand,
            "v_info": v_info,
            "threshold": 1 - thresholds[int(curves.argmax())],
            **each,
        }

    return validate


def train_mixture(
    sources: Sequence[LabelledStack],
    output: Path,
    *,
    about: Card,
    settings: TrainSettings | None = None,
    begin: Weights | None = None,
    encoder_weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Record, None, Weights]:
    """Train one network on several sources; yields what the trainer yields.

    Goes on from its checkpoint as `train_weights` does. Held-out sections are not
    looked at. Without sections to validate on the last weights are kept.

    Parameters
    ----------
    output
        The weights file that is written at the end, with a card.
    about
        The card to begin with: architecture, configuration, `pixel_size_nm`, data sets,
        licences. Scores on the validation sections and the rest are filled in.
    begin
        Weights of the same architecture to go on from; the card names them as parent.
        They may see fewer sections and give no affinities.
    device
        Where to train; `settings.device` has been resolved by the caller.

    Raises
    ------
    ValueError
        If a source's images and labels don't match or its voxel size isn't known, the
        card has no pixel size, `begin` is of another network, or the checkpoint is of
        another run.
    """
    settings = settings or TrainSettings()
    pixel_size_nm = _checked(sources, about)
    sources, notes = _labelled(sources)
    yield from map(Note, notes)
    torch.manual_seed(settings.seed)
    network = build(about.architecture, about.config).to(device)
    if begin is not None:
        about = _continue(network, begin, about)
    if encoder_weights is not None:
        load_encoder(network, encoder_weights)
    read = [
        _Read.of(each, pixel_size_nm, network, n=len(views))
        for views in map(sources_along, sources)
        for each in views
    ]
    sets = {part.source.name: part.validation for part in read if part.validation}
    trainer = Trainer(
        network,
        _patches(read, network, settings),
        settings,
        validation=mixed_validation(sets) if sets else None,
        checkpoint=checkpoint_of(output),
        facts={
            "network": f"{about.architecture} {about.config}",
            "beginning": str(begin and begin.sha256),
            "pixel size": str(pixel_size_nm),
            "sources": ", ".join(f"{s.name} {s.share:g}" for s in sources),
            **{k: v for part in read for k, v in part.facts.items()},
        },
    )
    result = yield from trainer.run()
    network.load_state_dict(result.state)
    first = sources[0]
    card = fill_in(about, network, result, first.images, first.split, settings)
    weights = save_weights(output, result.state, card)
    checkpoint_of(output).unlink(missing_ok=True)
    return weights


def _continue(network: nn.Module, begin: Weights, about: Card) -> Card:
    """Load the weights to go on from; return the card that names them."""
    try:
        if begin.card.architecture != about.architecture:
            raise ValueError("another architecture")
        begun = with_context(begin.network(), about.architecture, about.config)
        network.load_state_dict(begun.state_dict())
    except (RuntimeError, ValueError) as e:
        msg = (
            f"{begin.card.name} is a {begin.card.architecture} {begin.card.config}, "
            f"not a {about.architecture} {about.config}; training can't go on from it"
        )
        raise ValueError(msg) from e
    return about.model_copy(update={"parent_sha256": begin.sha256})


def _checked(sources: Sequence[LabelledStack], about: Card) -> tuple[float, float]:
    if about.pixel_size_nm is None:
        msg = "the card must say the pixel size to which all sources are resampled"
        raise ValueError(msg)
    for source in sources:
        check_split(source.split, source.images.shape[0])
    return about.pixel_size_nm


def _labelled(
    sources: Sequence[LabelledStack],
) -> tuple[list[LabelledStack], list[str]]:
    """Leave out sections in which nothing is labelled; say which."""
    kept, notes = [], []
    for source in sources:
        split, said = labelled_split(source.split, source.labels, source.meaning)
        kept.append(replace(source, split=split))
        notes += [f"{source.name}: {words}" for words in said]
    return kept, notes


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A source along one axis, and what was read of it.

    `share` is that of the patches along this axis.
    """

    source: LabelledStack
    training: list[Example]
    validation: list[Example]
    share: float

    @classmethod
    def of(
        cls,
        source: LabelledStack,
        pixel_size_nm: tuple[float, float],
        network: nn.Module,
        n: int,
    ) -> _Read:
        training, validation = (
            examples_of(
                source,
                sections,
                pixel_size_nm,
                context=context_of(network),
                affinities=affinities_of(network),
            )
            for sections in (source.split.training, source.split.validation)
        )
        return cls(source, training, scorable(validation), source.share / n)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint must be of."""
        facts = facts_of(self.source.split, self.training, self.validation)
        return {f"{self.source.name}: {name}": fact for name, fact in facts.items()}


def _patches(
    read: Sequence[_Read], network: nn.Module, settings: TrainSettings
) -> MixedPatches:
    options: dict[str, Any] = {
        "n_classes": 2,
        "device": next(network.parameters()).device,
        "trim": cast("Network", network).geometry.trim,
        "affinities": affinities_of(network),
    }
    drawn = [PatchSource(part.training, settings, **options) for part in read]
    return MixedPatches(drawn, [part.share for part in read], settings)
