"""Markov chains of an RBM that belong to no sample: where they start, and how they go on."""
