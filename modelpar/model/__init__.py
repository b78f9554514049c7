"""The mathematics: RBMs, networks of them, back-propagation and pruning."""
