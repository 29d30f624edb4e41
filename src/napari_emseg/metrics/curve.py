"""How the scores run with the threshold, told by the probability of membrane."""

from __future__ import annotations

from dataclasses import dataclass

from napari_emseg.metrics.agreement import Agreement
from napari_emseg.metrics.rand_info import RandInfoScores

DIGITS = 9
"""The challenge adds 0.1 up; what that leaves in the last digits is not shown."""


@dataclass(frozen=True, slots=True)
class Curve:
    """V_Rand and V_Info over the probability from which a pixel is membrane.

    The challenge has thresholds of the probability of inside; 1 minus that is what the
    settings of the cells have.
    """

    thresholds: tuple[float, ...]
    """Ascending."""
    v_rand: tuple[float, ...]
    v_info: tuple[float, ...]

    @classmethod
    def of(cls, scores: RandInfoScores) -> Curve:
        """Turn the challenge's thresholds round."""
        ascending = tuple(membrane_at(t) for t in reversed(scores.rand.thresholds))
        return cls(ascending, _reversed(scores.rand), _reversed(scores.info))

    @property
    def best(self) -> float:
        """The threshold of the highest V_Rand, as the challenge chooses it."""
        top = max(self.v_rand)
        return max(
            t for t, v in zip(self.thresholds, self.v_rand, strict=True) if v == top
        )


def membrane_at(inside: float) -> float:
    """Return the threshold of membrane that one of inside stands for."""
    return round(1 - inside, DIGITS)


def _reversed(agreement: Agreement) -> tuple[float, ...]:
    return tuple(float(value) for value in agreement.curve[::-1])
