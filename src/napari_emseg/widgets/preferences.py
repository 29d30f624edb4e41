"""What the user set for this plugin in napari's Preferences."""

from __future__ import annotations

from napari.settings import get_plugin_settings

PLUGIN = "napari-emseg"


def preference(category: str, name: str) -> str | None:
    """Return a preference of the manifest's `configurations`; None if not there.

    It is not there where the plugin isn't installed, such as in some tests.
    """
    try:
        settings = get_plugin_settings(PLUGIN)
    except KeyError:
        return None
    value: str = getattr(getattr(settings, category), name)
    return value
