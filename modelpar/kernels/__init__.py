"""Local arithmetic of one rank: products, what follows them, statistics, updates, and random numbers."""
