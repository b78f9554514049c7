"""Names of files and how they are written: paths, and one door for all outputs."""
