"""The machine: cores and threads, and where compiled kernels are kept."""
