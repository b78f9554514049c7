"""Numbers and arrays of any kind that users pass, converted to one plain form."""
