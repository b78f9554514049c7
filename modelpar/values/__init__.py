"""What users hand over, in one plain form: numbers and arrays of any kind."""
