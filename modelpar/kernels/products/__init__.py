"""Products of weights with states or values: how each is made, and which way is chosen."""
