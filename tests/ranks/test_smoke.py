def test_sum(comm, agree):
    agree(comm.allreduce(comm.rank) == comm.size * (comm.size - 1) // 2)
