"""Who owns which units, and which units are connected; values that know no MPI."""
