"""Local arithmetic of one rank: products, the passes after them, statistics, updates, and the generator of draws."""
