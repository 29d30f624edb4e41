"""Stack and weights in, membrane probabilities out, by overlap-tile."""
