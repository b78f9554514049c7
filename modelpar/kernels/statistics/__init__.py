"""Statistics of two phases, and what weights learn from them."""
