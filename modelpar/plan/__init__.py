"""Decisions before a network is made: the layout of each matrix, and how much memory it takes."""
