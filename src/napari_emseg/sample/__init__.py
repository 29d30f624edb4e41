"""EM to try things on: a bundled crop of a real stack, and drawn membranes."""
