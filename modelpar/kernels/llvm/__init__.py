"""Kernels written in vectors of LLVM, for processors that have what they need."""
