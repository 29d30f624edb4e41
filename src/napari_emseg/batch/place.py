"""Where a batch runs, as a person chooses it in a window."""

from __future__ import annotations

from pydantic import Field

from napari_emseg.batch.where import ClusterSettings
from napari_emseg.core.settings import Settings


class PlaceSettings(Settings):
    """Threads of this window, processes of this machine, or a cluster."""

    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        title="Workers",
        description="So many processes on this machine; auto: threads of this window.",
    )
    scheduler: str = Field(
        "",
        title="Scheduler",
        description="Address of a Dask scheduler, tcp://… or tls://…, instead.",
    )

    @property
    def where(self) -> ClusterSettings:
        """As a batch takes it.

        Raises
        ------
        ValueError
            If both are given.
        """
        return ClusterSettings(self.workers, self.scheduler.strip() or None)
