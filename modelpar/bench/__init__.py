"""Benchmarks of the engine, each a function from sizes to rows; the command line prints them."""
