"""All that is used of yaozarrs: its interface may still change (0.x)."""

from __future__ import annotations

from napari_emseg.core.requirements import incompatible

TESTED = "0.3.4"

try:
    from yaozarrs import v04, v05
    from yaozarrs.write.v05 import prepare_image

    MODELS = (
        v04.Image,
        v04.LabelImage,
        v04.LabelsGroup,
        v05.Dataset,
        v05.Image,
        v05.LabelImage,
        v05.LabelsGroup,
        v05.Multiscale,
        v05.ScaleTransformation,
        v05.SpaceAxis,
        v05.TranslationTransformation,
    )
except (ImportError, AttributeError) as e:
    raise incompatible("yaozarrs", TESTED, e) from e

__all__ = ["MODELS", "prepare_image", "v04", "v05"]
