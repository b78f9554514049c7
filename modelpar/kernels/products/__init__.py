"""Products of weights with states or values: how each is made, and which kernel is chosen."""
