"""Numbers and arrays of any kind, as users hand them over, in one plain form."""
