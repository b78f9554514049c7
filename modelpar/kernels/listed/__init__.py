"""Kernels of listed connections: weights of single connections, block after block."""
