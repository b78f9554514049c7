"""Names of files, and the one module through which outputs are written."""
