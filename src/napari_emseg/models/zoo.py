"""Which networks there are: a registry that one decorator extends."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    cast,
)

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from napari_emseg.core.card import Affinities, Context, Offset
from napari_emseg.core.memory import free_ram
from napari_emseg.core.settings import Heads, Settings
from napari_emseg.core.tiles import Geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

Activation = Literal["softmax", "sigmoid"]


class NetworkConfig(Settings):
    """What every architecture's own configuration derives from."""

    n_classes: int = Field(
        2,
        ge=1,
        le=256,
        title="Classes",
        description="Channels of the logits, affinities not counted.",
    )


def _number(value: Any) -> Any:
    """Take a number that a form or a command line gives as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class ContextConfig(NetworkConfig):
    """Of architectures that can see neighbouring sections, and give affinities."""

    context: Annotated[Context, BeforeValidator(_number)] = Field(
        1,
        title="Sections seen",
        description="The section itself and as many neighbours on either side.",
    )
    affinities: Affinities = Field(
        (),
        title="Affinities",
        description="Offsets (z, y, x) to voxels that may be of the same cell.",
        json_schema_extra={"hidden": True},
    )

    @property
    def channels(self) -> int:
        """All channels of the logits; the affinities come last."""
        return self.n_classes + len(self.affinities)

    @property
    def more_channels(self) -> int:
        """Channels in and out beside one grey value and the classes."""
        return self.context - 1 + len(self.affinities)

    @model_serializer(mode="wrap")
    def _only_what_is_used(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        # programs that know nothing of either refuse a configuration that names them
        values: dict[str, Any] = handler(self)
        for name in ("context", "affinities"):
            if values.get(name) in (1, (), []):
                del values[name]
        return values


class Network(Protocol):
    """What the rest of the house asks of a `torch.nn.Module`.

    `forward` takes `(n, context, y, x)` normalised grey values and returns logits
    `(n, channels, y', x')`, where y' and x' follow from `geometry`. A network whose
    `config` is no `ContextConfig` sees one section and has no affinities.
    """

    Config: ClassVar[type[NetworkConfig]]
    activation: ClassVar[Activation]

    @property
    def geometry(self) -> Geometry:
        """Stride and context, for the tiles."""

    @property
    def bytes_per_pixel(self) -> float:
        """Peak memory of a float32 forward pass per pixel of the window."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""

    def supervised(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every output that a loss is taken of."""


class Prunable(Network, Protocol):
    """A network with several heads, that can be cut to any of them.

    `config` rebuilds it; that of a part rebuilds the part.
    """

    config: NetworkConfig

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of its heads, ascending; the mean of heads needs all from 1."""

    def pruned(self, depth: int, heads: Heads = "last") -> Prunable:
        """Return a smaller network that gives what head `depth` of this one gives.

        With `heads="mean"` it keeps heads 1…depth and gives their mean. Raises a
        ValueError that says what is possible if it can't be.
        """


def context_of(network: object) -> Context:
    """Return how many sections a network sees, or one of a configuration."""
    config = getattr(network, "config", network)
    found: Context = getattr(config, "context", 1)
    return found


def affinities_of(network: object) -> tuple[Offset, ...]:
    """Return the offsets of the last channels of a network, or of a configuration."""
    config = getattr(network, "config", network)
    found: tuple[Offset, ...] = getattr(config, "affinities", ())
    return found


SMALL = 2**24
"""Values of a network that is built whatever the file holds: the misfit is named."""

_SPARE = 2
"""A network may allocate so many times what its file holds, such as for buffers."""

N = TypeVar("N", bound="type[nn.Module]")

_NETWORKS: dict[str, type[Network]] = {}

_BUNDLED = {
    "cenet": "napari_emseg.models.cenet",
    "unet": "napari_emseg.models.unet",
    "unetpp": "napari_emseg.models.unetpp",
}
"""Modules that register themselves when first asked for, since they import torch."""

GROUP = "napari_emseg.networks"
"""Entry points by which other packages name such modules of theirs."""


def register(name: str) -> Callable[[N], N]:
    """Make a network known by `name`, in the panel, on the command line and in files.

    Raises
    ------
    ValueError
        If the name is taken by another network.
    """

    def add(network: N) -> N:
        place = network.__module__, network.__qualname__
        known = _NETWORKS.get(name)
        taken = known is not None and (known.__module__, known.__qualname__) != place
        if taken or place[0] != _BUNDLED.get(name, place[0]):
            msg = f"there is a network {name!r} already; choose another name"
            raise ValueError(msg)
        _NETWORKS[name] = cast("type[Network]", network)
        return network

    return add


def architectures() -> tuple[str, ...]:
    """Names of all known networks; imports none of them."""
    return tuple(sorted({*_modules(), *_NETWORKS}))


def is_bundled(name: str) -> bool:
    """Tell a network of this package from those of others; imports none of them."""
    return name in _BUNDLED


@cache
def _modules() -> dict[str, str]:
    """Return the module of each network that comes with this or another package."""
    others = {point.name: point.module for point in entry_points(group=GROUP)}
    return others | _BUNDLED


def network_class(architecture: str) -> type[Network]:
    """Return the class of a network.

    Raises
    ------
    ValueError
        If there is none of that name.
    ImportError
        If another package names a module that can't be imported.
    """
    if architecture not in _NETWORKS and architecture in _modules():
        import_module(_modules()[architecture])
    if architecture not in _NETWORKS:
        known = ", ".join(architectures())
        msg = f"unknown architecture {architecture!r}; known are: {known}"
        raise ValueError(msg)
    return _NETWORKS[architecture]


def check_config(
    architecture: str, config: dict[str, Any] | None = None
) -> NetworkConfig:
    """Return the whole configuration of a network.

    Raises
    ------
    ValueError
        If the architecture is unknown, or a value is out of bounds.
    """
    cls = network_class(architecture)
    try:
        return cls.Config(**(config or {}))
    except ValidationError as e:
        raise ValueError(_misfit(architecture, cls.Config, e)) from e


def build(
    architecture: str,
    config: dict[str, Any] | None = None,
    *,
    holds: int | None = None,
) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    holds
        Number of values that the file holds which is to fill it. A network that they
        can't fill is refused before its memory is taken.

    Raises
    ------
    ValueError
        If the architecture is unknown, a value of the configuration is out of bounds,
        or the network needs more than is free, or than the file holds.
    """
    from napari_emseg.models.budget import AllocationBudget, OverBudgetError

    cls, checked = network_class(architecture), check_config(architecture, config)
    # four bytes for each value
    most = free_ram() // 4 if holds is None else _SPARE * holds + SMALL
    try:
        with AllocationBudget(most):
            return cast("nn.Module", cls(checked))  # type: ignore[call-arg]
    except OverBudgetError as e:
        shape = ", ".join(f"{name}={value}" for name, value in checked)
        has = "more than memory is free for"
        if holds is not None:
            has = f"more than {most:,}, where the file holds {holds:,}"
        msg = f"{architecture} with {shape} needs too many parameters: {has}"
        raise ValueError(msg) from e


def _misfit(
    architecture: str, config: type[NetworkConfig], error: ValidationError
) -> str:
    """Say what of a configuration a network doesn't take; names are listed."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(config.model_fields)
        return f"{architecture} has no {where}; its configuration is {known}"
    what = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if not where:  # of several values together: it says which
        return f"{architecture}: {what}"
    return f"{architecture}: {where} must be {what}, got {first['input']!r}"
