"""Who owns which units, and which units are connected: plain values, the same on every rank."""
