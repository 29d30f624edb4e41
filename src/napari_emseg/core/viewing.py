"""Settings of the live preview."""

from __future__ import annotations

from pydantic import Field

from napari_emseg.core.settings import Settings


class LiveSettings(Settings):
    """How the field of view is predicted while one moves."""

    rest_ms: int = Field(
        80,
        ge=0,
        le=5000,
        title="Rest",
        description="The view must rest for so long before it is predicted.",
        json_schema_extra={"unit": "ms"},
    )
    first_s: float = Field(
        0.3,
        gt=0,
        le=60,
        title="First picture",
        description="Off by default if 512² px take longer at the lowest depth.",
        json_schema_extra={"unit": "s"},
    )
    refined_s: float = Field(
        1.0,
        gt=0,
        le=600,
        title="Refined picture",
        description="A depth that takes longer than this for the view is left out.",
        json_schema_extra={"unit": "s"},
    )
    tile: int = Field(
        640,
        ge=128,
        le=4096,
        title="Tile",
        description="Largest tile side; a view that is outdated stops between two.",
        json_schema_extra={"unit": "px"},
    )
    most_megapixels: float = Field(
        4.2,
        gt=0,
        le=1000,
        title="Largest view",
        description="Of larger views there is no preview, whatever the speed.",
        json_schema_extra={"unit": "Mpx"},
    )
