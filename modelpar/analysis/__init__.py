"""What models and samples tell: couplings between sites, contacts, and samples compared with data.

Functions of arrays, without MPI: a caller has collected parameters and samples before.  Sequences are states, integers
(samples, sites) from 0 to Q - 1; W is (sites * Q, hidden units), the row of state a of site i being i * Q + a.
"""
