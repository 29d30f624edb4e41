"""Per-pixel loops compiled by numba; loaded on first use, never at import of metrics.

All of them work on one section in the *flat* form made by `flat.pad`: transposed, with
a border of one pixel, and flattened, so that counting up walks column by column as the
challenge's own evaluation does, and neighbours are found by adding an offset.
"""
