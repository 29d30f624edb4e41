"""EM and weights for napari-emseg; CC BY-NC-SA 3.0: not for commercial use."""
