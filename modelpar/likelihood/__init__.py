"""Likelihoods of RBMs and of networks of them: exact ones, pseudo-likelihoods, and estimates by annealing."""
