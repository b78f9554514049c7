"""Names of files, locks, and the one module through which outputs are written."""
