"""Building blocks of kernels, written as LLVM vector instructions."""
