"""Kernels of listed connections, whose weights are stored one by one, block by block."""
