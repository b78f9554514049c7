"""Decisions before a network is made: layouts, memory, and which grid is fastest, by the pieces of an update."""
