"""Calls that all ranks make together: that they agree, and messages of any size."""
