"""Membrane probabilities in, cells out."""
