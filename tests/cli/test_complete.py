"""``modelpar sample --given --mask``: files in, files out, and mistakes in one line."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, save
from modelpar.chains.clamped import complete
from modelpar.cli import run
from modelpar.cli.complete import read_mask
from modelpar.errors import DataError
from modelpar.training.state import TrainingRun

pytestmark = [pytest.mark.ranks(2, 3), pytest.mark.slow]

RNG = np.random.default_rng(3)
SAMPLES, MASK = RNG.integers(0, 2, (5, 12)), RNG.integers(0, 2, (5, 12))
SPEC = NetworkSpec((12, 7), seed=2, weight_scale=1.0)


@pytest.fixture
def folder(comm, tmp_path):
    """A Bernoulli and a Gaussian network, and files to give."""
    where = comm.bcast(tmp_path)
    if comm.rank == 0:
        with Grid(MPI.COMM_SELF) as grid:
            save(DeepBeliefNetwork(SPEC, grid), where / "states.safetensors")
            real = DeepBeliefNetwork(NetworkSpec((12, 7), seed=2, visible="gaussian"), grid)
            real.input_offset, real.input_scale = np.linspace(-3, 5, 12), np.linspace(0.1, 7, 12)
            save(real, where / "real.safetensors")
        np.save(where / "samples.npy", np.where(MASK, SAMPLES * 255, 77).astype(np.uint8))
        np.save(where / "mask.npy", MASK)
        np.savez(where / "one.npz", mask=MASK[0].reshape(3, 4), other=0)
        np.save(where / "real.npy", np.where(MASK[0], RNG.normal(size=(5, 12)), np.nan))
        np.save(where / "twos.npy", 2 * MASK)
        np.save(where / "grey.npy", np.full((5, 12), 0.25))
        np.save(where / "wide.npy", np.zeros((5, 13)))
    comm.barrier()
    return where


def sample(comm, folder, words) -> int:
    """The exit status; names with a dot are files of the folder."""
    return run(comm, ["sample", *(str(folder / word) if "." in word else word for word in words.split())])


def test_completions_of_damaged_bytes(comm, agree, folder) -> None:
    """In the unit of the file, with what is given as it is, and the others as the API makes them at another grid."""
    words = "states.safetensors --given samples.npy --mask mask.npy --count 2 --steps 9 --seed 4 --out out.npy"
    agree(sample(comm, folder, words) == 0)
    out = np.load(folder / "out.npy")
    with Grid(MPI.COMM_SELF) as grid:
        expected = complete(DeepBeliefNetwork(SPEC, grid), SAMPLES.T, MASK.T, count=2, steps=9, first_draw=4 << 32).T
    agree(np.allclose(out / 255, expected, atol=1e-5))
    agree((out.reshape(2, 5, 12)[:, MASK == 1] == 255 * SAMPLES[MASK == 1]).all())


def test_bytes_of_0_and_1_are_states(comm, agree, folder, capfd) -> None:
    """As .astype(bool) says them, whatever their type; a threshold of the network's data makes no difference."""
    if comm.rank == 0:
        np.save(folder / "bytes.npy", SAMPLES.astype(np.uint8))
        np.save(folder / "bools.npy", SAMPLES.astype(bool))
        with Grid(MPI.COMM_SELF) as grid:
            network = DeepBeliefNetwork(SPEC, grid)
            TrainingRun.of(network).binarise = "0.5"
            save(network, folder / "drawn.safetensors")
    comm.barrier()
    for model in ("states", "drawn"):
        for kind in ("bytes", "bools"):
            words = f"{model}.safetensors --given {kind}.npy --mask mask.npy --steps 5 --out {model}-{kind}.npy"
            agree(sample(comm, folder, words) == 0)
        ours, theirs = (np.load(folder / f"{model}-{kind}.npy") for kind in ("bytes", "bools"))
        agree(np.array_equal(ours, theirs) and np.array_equal(ours[MASK == 1], SAMPLES[MASK == 1]))
    agree(not capfd.readouterr().err)


def test_real_values_stay_to_the_last_bit(comm, agree, folder) -> None:
    words = (
        f"real.safetensors --given real.npy --mask one.npz --steps 3 --states --model-shards {comm.size} --out r.npy"
    )
    agree(sample(comm, folder, words) == 0)
    out, given, known = np.load(folder / "r.npy"), np.load(folder / "real.npy"), MASK[0] == 1
    agree(out[:, known].tobytes() == given[:, known].tobytes())
    agree(np.isfinite(out).all())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--given samples.npy", "--given came without --mask"),
        ("--mask mask.npy", "--mask came without --given"),
        ("--states", "--states has no effect"),
        ("--mean-over 2", "--mean-over 2 has no effect on fantasies"),
        ("--given samples.npy --mask mask.npy --steps 3 --mean-over 4", "can be 3 at most"),
        ("--given grey.npy --mask mask.npy", "has the value 0.25 where the mask is 1"),
        ("--given samples.npy --mask twos.npy", "has the value 2"),
        ("--given wide.npy --mask mask.npy", "13 values a sample"),
        ("--given samples.npy --mask mask.npy --out mask.npy", "would write over"),
    ],
)
def test_mistakes_are_one_line(comm, agree, folder, capfd, words, message) -> None:
    out = "" if "--out" in words else "--out never.npy"
    agree(sample(comm, folder, f"states.safetensors {words} {out}") == 2)
    printed = capfd.readouterr().err
    agree((message in printed and printed.count("modelpar: error:") == 1) or comm.rank > 0, printed)
    agree(not (folder / "never.npy").exists())


def test_forms_of_a_mask(comm, folder) -> None:
    assert (read_mask(str(folder / "mask.npy"), 5, 12) == (MASK.T == 1)).all()
    assert (read_mask(str(folder / "one.npz"), 5, 12) == (MASK[0][:, None] == 1)).all()
    if comm.rank == 0:
        np.save(folder / "pictures.npy", MASK.reshape(5, 3, 4))
        (folder / "torn.npy").write_bytes((folder / "mask.npy").read_bytes()[:150])
        np.savez(folder / "two.npz", MASK, MASK)
    comm.barrier()
    assert (read_mask(str(folder / "pictures.npy"), 5, 12) == (MASK.T == 1)).all()
    for name, message in (("mask.npy", "6 x 12"), ("torn.npy", "is truncated"), ("two.npz", "name it mask")):
        with pytest.raises(DataError, match=message):
            read_mask(str(folder / name), 6, 12)
