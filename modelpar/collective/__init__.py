"""Collective calls: agreement on arguments, and messages of any size."""
