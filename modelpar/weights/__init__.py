"""Weights over shards: layouts of matrices, listed connections, and their statistics."""
