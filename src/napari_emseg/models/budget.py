"""A limit on what a network may allocate while it is built."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset(
    {torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros}
)
"""By which layers make their parameters and buffers."""


class AllocationBudget(TorchFunctionMode):
    """While it is entered, no more than `most` values are allocated.

    A configuration of a few bytes can ask for a network of any size. This counts what
    is asked for, and refuses before the memory is taken.

    Raises
    ------
    OverBudgetError
        By the allocation that would exceed it.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count the values of a new tensor, then make it."""
        options = kwargs or {}
        # counted before the call, which is what takes the memory
        if func in _FACTORIES:
            self._left -= _count(args[0] if args else options.get("size"), args)
            if self._left < 0:
                raise OverBudgetError
        return func(*args, **options)


class OverBudgetError(Exception):
    """What is being built needs more values than it may have."""


def _count(size: Any, args: tuple[Any, ...]) -> int:
    """Return the number of values of `size`, or of sizes given one by one."""
    if isinstance(size, int):
        return prod(n for n in args if isinstance(n, int))
    return prod(size or ())
