"""The mathematics: RBMs, networks of them, back-propagation, scores and pruning."""
