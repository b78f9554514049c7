"""Decisions before a network is made: how each matrix is held, and how much memory that takes."""
