"""The nouns every other room shares: stacks, tiles, intensities, settings, records."""
