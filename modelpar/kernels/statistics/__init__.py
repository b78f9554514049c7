"""Statistics of two phases, and the update of weights from them."""
