"""Names of files, and the one way in which outputs are written."""
