"""Files of the package rbms: read, written and read again, bit for bit at every grid, and by rbms where it is there.

Modules: modelpar/cli/rbms_export, modelpar/cli/rbms_import, modelpar/cli/row_file
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, load, save
from modelpar.chains.gibbs import START, Chains
from modelpar.cli import run
from modelpar.cli.rbms_export import _Writer, torch_state
from modelpar.draws import Purpose
from modelpar.kernels.states import unpack
from modelpar.training.state import Position, TrainingRun

h5py = pytest.importorskip("h5py")
pytestmark = [pytest.mark.ranks(2, 3), pytest.mark.slow]

RNG = np.random.default_rng(6)
W, B, C = RNG.normal(size=(9, 5)).astype("f4"), RNG.normal(size=9).astype("f4"), RNG.normal(size=5).astype("f4")
CHAINS = RNG.integers(0, 2, (7, 9)).astype("f4")
SITES = RNG.integers(0, 3, (7, 3)).astype("f4")  # categories of the chains of a PBRBM, whose 3 sites of 3 are 9 units


def write_sites(path, *, shape=(3, 3), chains=SITES) -> None:
    write_theirs(path, kind="PBRBM", visible=B.reshape(shape), weights=W.reshape(*shape, 5), chains=chains)


def write_theirs(path, *, kind="BBRBM", weights=W, visible=B, hidden=C, chains=CHAINS) -> None:
    """As save_model and create_machine of rbms 0.4 do."""
    with h5py.File(path, "w") as file:
        for update, factor in ((1, 0.5), (10, 1.0), (9, 0.25)):
            group = file.create_group(f"update_{update}/params")
            for name, value in (("weight_matrix", weights), ("vbias", visible), ("hbias", hidden)):
                group[name] = np.float32(factor) * value
            file[f"update_{update}/time"] = 1.5
        file["parallel_chains"], file["model_type"] = chains, kind
        values = {"batch_size": 20, "gibbs_steps": 4, "learning_rate": 0.02, "L1": 0.0, "L2": 0.01, "seed": 13}
        for name, value in {**values, "filename": "x.h5"}.items():
            file[f"hyperparameters/{name}"] = value


@pytest.fixture
def folder(comm, tmp_path):
    where = comm.bcast(tmp_path)
    if comm.rank == 0:
        write_theirs(where / "theirs.h5")
    comm.barrier()
    return where


def modelpar(comm, folder, words) -> int:
    """The exit status; names with the endings of outputs, and those in capitals, are files of the folder."""
    return run(
        comm,
        [str(folder / w) if w.endswith((".h5", ".npz", ".safetensors")) or w.isupper() else w for w in words.split()],
    )


def parameters(path):
    """(W, b, c, chains, what these should be) of the first RBM, whole."""
    with Grid(MPI.COMM_SELF) as grid:
        network = load(path, grid)
        rbm, chains = network.rbms[0], network.run.chains
        v = CHAINS if rbm.visible.name == "bernoulli" else (SITES[..., None] == np.arange(3)).reshape(7, 9)
        drawn = rbm.sample_hidden(v.T.astype("f4"), Purpose.CHAIN, START, 0)
        return rbm.W.copy(), rbm.b.copy(), rbm.c.copy(), None if chains is None else unpack(chains.h), unpack(drawn)


def test_a_file_comes_and_goes(comm, agree, folder) -> None:
    """Every shape of the grid makes the same bytes, and the parameters come back as they were."""
    shards = [n for n in range(1, comm.size + 1) if comm.size % n == 0]
    for n in shards:
        agree(modelpar(comm, folder, f"import theirs.h5 in{n}.safetensors --model-shards {n}") == 0)
        agree(modelpar(comm, folder, f"export in{n}.safetensors out{n}.h5 --model-shards {n}") == 0)
        agree((folder / f"in{n}.safetensors").read_bytes() == (folder / "in1.safetensors").read_bytes())
    W1, b1, c1, chains, drawn = parameters(folder / "in1.safetensors")
    for mine, theirs in ((W1, W), (b1, B), (c1, C)):
        agree(mine.tobytes() == theirs.tobytes())
    agree(chains.shape == (5, 7) and np.array_equal(chains, drawn))
    for n in shards:
        with h5py.File(folder / f"out{n}.h5") as file:
            assert [name for name in file if name.startswith("update_")] == ["update_1"]
            for name, theirs in (("weight_matrix", W), ("vbias", B), ("hbias", C)):
                agree(file["update_1/params"][name][()].tobytes() == theirs.tobytes())
                agree(file["update_1"][name] == file["update_1/params"][name])
            agree(file["parallel_chains"].shape == (7, 9) and set(np.unique(file["parallel_chains"])) <= {0, 1})
            agree(file["hyperparameters/num_hiddens"][()] == 5 and file["model_type"][()] == b"BBRBM")


def test_sites_come_and_go(comm, agree, folder) -> None:
    """Of categorical units a file has one axis more."""
    if comm.rank == 0:
        write_sites(folder / "sites.h5")
    comm.barrier()
    for n in [n for n in range(1, comm.size + 1) if comm.size % n == 0]:
        agree(modelpar(comm, folder, f"import sites.h5 in{n}.safetensors --model-shards {n}") == 0)
        agree(modelpar(comm, folder, f"export in{n}.safetensors out{n}.h5 --model-shards {n}") == 0)
        agree((folder / f"in{n}.safetensors").read_bytes() == (folder / "in1.safetensors").read_bytes())
        with h5py.File(folder / f"out{n}.h5") as file:
            for name, theirs in (("weight_matrix", W.reshape(3, 3, 5)), ("vbias", B.reshape(3, 3)), ("hbias", C)):
                ours = file["update_1/params"][name][()]
                agree(ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes())
            agree(file["parallel_chains"].shape == (7, 3) and set(np.unique(file["parallel_chains"])) <= {0, 1, 2})
            agree(file["hyperparameters/num_visibles"][()] == 3 and file["model_type"][()] == b"PBRBM")
    W1, b1, c1, chains, drawn = parameters(folder / "in1.safetensors")
    agree(W1.tobytes() == W.tobytes() and b1.tobytes() == B.tobytes() and c1.tobytes() == C.tobytes())
    agree(np.array_equal(chains, drawn))


def test_rows_of_a_site_that_come_in_pieces(comm, agree, folder) -> None:
    """The rows of large networks come in chunks that end within sites."""
    if comm.rank == 0:
        writer = _Writer(folder / "pieces.h5")
        block = SimpleNamespace(shape=W.shape, block=W)
        writer.begin("params/weight_matrix", "weight_matrix", block, 3)
        for first in range(0, 9, 2):
            writer.add(W[first : first + 2])
        writer.finish()
        with h5py.File(folder / "pieces.h5") as file:
            assert file["params/weight_matrix"][()].tobytes() == W.tobytes()


def test_an_earlier_update_and_more_training(comm, agree, folder) -> None:
    agree(modelpar(comm, folder, "import theirs.h5 old.safetensors --update 9") == 0)
    old = parameters(folder / "old.safetensors")
    agree(np.array_equal(old[0], W / 4) and old[3] is None)
    agree(modelpar(comm, folder, "import theirs.h5 RUN --data bars:3") == 0)
    agree(modelpar(comm, folder, "import theirs.h5 RUN") == 2)
    agree(np.array_equal(parameters(folder / "RUN" / "model.safetensors")[0], W))
    if comm.rank == 0:  # whatever grid it goes on at
        words = "train --resume --run-dir RUN --epochs 3 --no-pictures --threads 1 --learning-rate 1e-6"
        assert modelpar(MPI.COMM_SELF, folder, words) == 0
    comm.barrier()
    W1, b1, *_ = parameters(folder / "RUN" / "model.safetensors")
    # it went on from there: nothing was drawn anew, and the biases were not set from the data
    agree(0 < np.abs(W1 - W).max() < 1e-3 and np.abs(b1 - B).max() < 1e-3)


@pytest.mark.parametrize("position", [Position("pretrain", layer=1, step=3), Position("done")], ids=["midst", "end"])
def test_chains_and_one_rbm_of_a_stack(comm, agree, folder, position) -> None:
    """Chains are exported by visible states drawn from them: weights that leave no doubt show which is whose."""
    h = np.eye(4, 7, dtype=int)
    with Grid(comm) as grid:
        network = DeepBeliefNetwork(NetworkSpec((9, 5, 4), seed=8, dtype="float64"), grid)
        rbm = network.rbms[1]
        rows, columns = rbm.weights.matrix_ids
        whole = np.full((5, 4), -40.0)
        whole[np.arange(4), np.arange(4)] = 40.0
        rbm.W[...] = whole[np.ix_(rows, columns)]
        network.refresh()
        state = TrainingRun.of(network)
        state.position = position
        state.chains = Chains.of_replica(h[rbm.hidden_ids], grid.replica, grid.n_replicas)
        save(network, folder / "stack.safetensors")
    agree(modelpar(comm, folder, "export stack.safetensors none.h5") == 2)
    agree(modelpar(comm, folder, "export stack.safetensors top.h5 --rbm 1") == 0)
    with h5py.File(folder / "top.h5") as file:
        v = file["parallel_chains"][()]
        agree(np.array_equal(file["update_1/params/weight_matrix"][()], whole))
    agree(v.shape == (7, 5) and np.array_equal(v[:4, :4], np.eye(4)))
    agree(modelpar(comm, folder, "export stack.safetensors low.h5 --rbm 0") == 0)
    with h5py.File(folder / "low.h5") as file:  # new ones
        agree(file["parallel_chains"].shape == (100, 9))


def test_rbms_reads_what_is_written(comm, agree, folder) -> None:
    io = pytest.importorskip("rbms.io", reason="rbms is not installed")
    torch = pytest.importorskip("torch")
    agree(modelpar(comm, folder, "import theirs.h5 in.safetensors") == 0)
    agree(modelpar(comm, folder, "export in.safetensors out.h5") == 0)
    read, chains, _, _ = io.load_model(str(folder / "out.h5"), 1, torch.device("cpu"), torch.float32, restore=True)
    agree(np.array_equal(read.weight_matrix.numpy(), W) and np.array_equal(read.hbias.numpy(), C))
    agree(chains["visible"].shape == (7, 9))
    h = np.eye(5, 7, dtype="f4").T
    energy = read.compute_energy(torch.from_numpy(CHAINS), torch.from_numpy(h)).numpy()
    agree(np.allclose(energy, -CHAINS @ B - h @ C - (CHAINS @ W * h).sum(axis=1), atol=1e-4))
    if comm.rank == 0:
        write_sites(folder / "sites.h5")
        assert modelpar(MPI.COMM_SELF, folder, "import sites.h5 sites.safetensors") == 0
        assert modelpar(MPI.COMM_SELF, folder, "export sites.safetensors out.h5") == 0
        read, _, _, _ = io.load_model(str(folder / "out.h5"), 1, torch.device("cpu"), torch.float32, restore=True)
        v = (SITES[..., None] == np.arange(3)).reshape(7, 9)
        energy = read.compute_energy(torch.from_numpy(SITES), torch.from_numpy(h)).numpy()
        assert np.allclose(energy, -(v @ B) - h @ C - (v @ W * h).sum(axis=1), atol=1e-4)
    assert torch_state(13).tobytes() == torch.manual_seed(13).get_state().numpy().tobytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("import theirs.h5 x.safetensors --update 3", "has the updates 1, 9, 10"),
        ("import ising.h5 x.safetensors", "type IIRBM"),
        (
            "import flat.h5 x.safetensors",
            "(sites, categories, hidden) with (sites, categories) and (hidden,) are needed",
        ),
        ("import one.h5 x.safetensors", "a site has 2 to 1024 categories"),
        ("import fourth.h5 x.safetensors", "not only categories 0 .. 2"),
        ("import uneven.h5 x.safetensors", "(visible,) and (hidden,) are needed"),
        ("import spins.h5 x.safetensors", "not only 0 and 1"),
        ("import nan.h5 x.safetensors", "has NaN"),
        ("import text.h5 x.safetensors", "cannot be read as a file of rbms: it is not HDF5"),
        ("import heap.h5 x.safetensors", "cannot be read as a file of rbms: it is damaged"),
        ("import cut.h5 x.safetensors", "it is HDF5, but damaged or cut off"),
        ("import part.h5 x.safetensors", "update_1 of {folder}/part.h5 has no hbias"),
        ("import nothing.h5 x.safetensors", "does not exist"),
        ("export in.safetensors x.npz --last", "has no average of parameters"),
        ("score in.safetensors --data digits --binarise 0.5", "was imported with --binarise none"),
        ("import theirs.h5 theirs.h5", "is a file"),
        ("export real.safetensors x.h5", "is for Bernoulli or categorical visible units, but these are gaussian"),
        ("export sparse.safetensors x.h5", "not complete"),
        ("export real.safetensors x.npz --rbm 0", "--rbm 0 has no effect"),
        ("export real.safetensors x.npz --to-rbms", "use .h5"),
    ],
)
def test_mistakes_are_one_line(comm, agree, folder, capfd, words, message) -> None:
    if comm.rank == 0:
        write_theirs(folder / "ising.h5", kind="IIRBM")
        write_theirs(folder / "flat.h5", kind="PBRBM")
        write_sites(folder / "one.h5", shape=(9, 1), chains=np.zeros((7, 9)))
        write_sites(folder / "fourth.h5", chains=SITES + 1)
        write_theirs(folder / "uneven.h5", hidden=C[:4])
        write_theirs(folder / "spins.h5", chains=2 * CHAINS - 1)
        write_theirs(folder / "nan.h5", hidden=np.where(C > 0, np.nan, C))
        (folder / "text.h5").write_text("weights")
        whole = (folder / "theirs.h5").read_bytes()  # HDF5 itself never returns from a heap like this
        at = whole.index(b"GCOL") + 16
        (folder / "heap.h5").write_bytes(whole[:at] + b"\0" * 1000 + whole[at + 1000 :])
        (folder / "cut.h5").write_bytes((folder / "theirs.h5").read_bytes()[:1500])
        with h5py.File(folder / "part.h5", "w") as file:
            file["update_1/params/weight_matrix"], file["update_1/params/vbias"] = W, B
        assert modelpar(MPI.COMM_SELF, folder, "import theirs.h5 in.safetensors") == 0
        capfd.readouterr()
        with Grid(MPI.COMM_SELF) as grid:
            save(DeepBeliefNetwork(NetworkSpec((9, 5), visible="gaussian"), grid), folder / "real.safetensors")
            save(DeepBeliefNetwork(NetworkSpec((9, 4), connections="random:3"), grid), folder / "sparse.safetensors")
    comm.barrier()
    agree(modelpar(comm, folder, words) == 2)
    printed = capfd.readouterr().err
    message = message.format(folder=folder)
    agree((message in printed and printed.count("modelpar: error:") == 1) or comm.rank > 0, printed)
    agree(not list(folder.glob("x.*")))


def test_without_h5py(comm, agree, folder, capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    agree(modelpar(comm, folder, "import theirs.h5 x.safetensors") == 2)
    agree("pip install 'modelpar[rbms]'" in capfd.readouterr().err or comm.rank > 0)
