"""Benchmarks of the engine: functions from sizes to rows, which the command line prints.

``cd1`` measures complete updates beside the BLAS's product, ``peers`` the same step in other libraries, ``kernels``
the local arithmetic one kernel at a time, ``exchange`` the traffic between shards.
"""
