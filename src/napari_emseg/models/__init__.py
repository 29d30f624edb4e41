"""The networks, and the weights that fill them."""
