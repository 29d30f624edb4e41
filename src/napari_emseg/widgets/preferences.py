"""What the user set for this plugin in napari's Preferences."""

import os

from napari.settings import get_plugin_settings, get_settings

PLUGIN = "napari-emseg"
PROJECTS = f"*.emseg{os.sep}"
"""As napari matches folders."""


def open_with_this() -> None:
    """Have napari open projects with this plugin and not ask each time."""
    readers = get_settings().plugins.extension2reader
    if PROJECTS not in readers:
        get_settings().plugins.extension2reader = {**readers, PROJECTS: PLUGIN}


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
