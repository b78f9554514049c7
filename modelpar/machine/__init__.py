"""The machine: folders for caches, and where compiled kernels are kept."""
