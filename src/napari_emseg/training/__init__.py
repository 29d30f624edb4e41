"""Images and labels in, weights out."""
