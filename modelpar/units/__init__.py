"""Kinds of units: what their energies, means, draws and free energies are, one module a kind."""
