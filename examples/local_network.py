"""Train a locally connected deep belief network, each shard with a tile of the picture.

    python examples/local_network.py
    mpirun -n 2 python examples/local_network.py
    mpirun -n 4 python examples/local_network.py

Four maps of receptive fields of 3x3 on the embedded digits, a dense layer above them, a softmax layer on top.  Prints
the test accuracy, about 95 %, the same at any number of ranks up to rounding, and what travelled between the shards in
the first RBM: the states at the borders of their tiles, exactly as many bytes as the placement predicts.
"""

from mpi4py import MPI

from modelpar import (
    DataSpec,
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    NetworkSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    open_dataset,
    place,
    pretrain,
)
from modelpar.ownership.costs import halo_bytes
from modelpar.ownership.placement import graph_of
from partitioners import Partition, measure

SAMPLES, EPOCHS = 64, 20

comm = MPI.COMM_WORLD
digits = open_dataset(DataSpec("digits", binarise="0.5"), comm)
n_maps, positions = 4, 6 * 6  # of fields of 3x3 on 8x8 pixels
spec = NetworkSpec((digits.n_visible, n_maps * positions, 200), classes=digits.n_classes, connections="local:3,dense")
training = TrainingSpec(epochs=EPOCHS, batch_size=SAMPLES, pass_up="states", centred=False)

with Grid(comm, model_shards=comm.size) as grid:
    layout = place(spec, grid.n_shards, comm, partitioner="tiles")
    network = DeepBeliefNetwork(spec, grid, layout)
    for record in pretrain(network, digits, training):
        if record.layer == 0:
            halo = network.traffic.total(comm)["shard"].get("halo", {}).get("bits", 0)
    for _ in fine_tune(network, digits, FineTuneSpec(epochs=40, batch_size=50, learning_rate=2.0, dropout=0.0)):
        pass
    accuracy = evaluate(network, digits, digits.test)["accuracy"]

    graph = graph_of(spec, network.layout.connections[:2])
    owners = tuple(layer.owner for layer in network.layout.layers[:3])
    volume = measure(graph, Partition(owners, grid.n_shards)).volume
    full, rest = divmod(len(digits.train), SAMPLES)
    steps = [SAMPLES] * full + [rest] * bool(rest)
    predicted = EPOCHS * sum(
        halo_bytes(int(volume.up[0]), int(volume.down[0]), n, planes=training.planes) for n in steps
    )
    if comm.rank == 0:
        print(f"{network.n_weights[0]} connections in place of {spec.layers[0] * spec.layers[1]}")
        print(f"{grid}: test accuracy {accuracy:.3f}")
        print(f"states at the borders of {grid.n_shards} tile(s): {halo} bytes, {predicted} predicted")
