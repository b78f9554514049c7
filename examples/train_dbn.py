"""Train a deep belief network from Python, on one rank or on many.

    python examples/train_dbn.py
    mpirun -n 4 python examples/train_dbn.py

Prints the reconstruction error of each RBM and the test accuracy, about 97 % on the embedded digits.  At four ranks the
weights are split over two model shards, and there are two replicas.
"""

from mpi4py import MPI

from modelpar import (
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    NetworkSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    open_dataset,
    pretrain,
)

comm = MPI.COMM_WORLD
digits = open_dataset("digits", comm)
shards = 2 if comm.size % 2 == 0 else 1
with Grid(comm, model_shards=shards) as grid:
    network = DeepBeliefNetwork(NetworkSpec((digits.n_visible, 256, 256), classes=digits.n_classes), grid)
    for record in pretrain(network, digits, TrainingSpec(epochs=10, batch_size=50)):
        if record.kind == "epoch" and comm.rank == 0:
            print(f"RBM {record.layer} epoch {record.epoch}: error {record.measures['reconstruction_error']:.4f}")
    for _ in fine_tune(network, digits, FineTuneSpec(epochs=20, batch_size=50)):
        pass
    accuracy = evaluate(network, digits, digits.test)["accuracy"]
    if comm.rank == 0:
        print(f"{grid}: test accuracy {accuracy:.3f}")
