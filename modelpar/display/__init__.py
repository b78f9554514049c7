"""Training watched from Python: progress, and curves of what was recorded, in terminals and in notebooks."""
