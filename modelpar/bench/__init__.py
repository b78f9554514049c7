"""Benchmarks of the engine, each a function from sizes to rows; the command line prints them.

``cd1`` measures whole updates beside the BLAS's product, ``peers`` the same step as others would write it, ``kernels``
the local arithmetic one kernel at a time, ``exchange`` what travels between shards.
"""
