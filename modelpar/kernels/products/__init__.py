"""Products of weights with states or real values: the kernels, and the choice between them."""
