"""Files of fields of science over several ranks: each has the columns of its own units, and errors are everyone's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data import open_dataset
from modelpar.errors import ModelparError, ModelparWarning
from modelpar.ownership.layout import UnitLayout
from tests.data.test_genotypes import ALLELES, COPIES, bed, one_hot, values_of, vcf, written
from tests.data.test_sequences import PROTEINS, fasta
from tests.data.test_sequences import one_hot as one_hot_letters

pytestmark = pytest.mark.ranks


@pytest.fixture
def folder(comm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all ranks, with a file of each kind."""
    path = Path(comm.bcast(str(tmp_path_factory.mktemp("data")) if comm.rank == 0 else None))
    if comm.rank == 0:
        (path / "x.fa").write_text(fasta(PROTEINS))
        (path / "bad.fa").write_text(fasta([*PROTEINS, "AC"]))
        bed(path / "x.bed", COPIES)
        vcf(path / "x.vcf.gz", written(ALLELES, "|"))
    comm.barrier()
    return path


@pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")
@pytest.mark.parametrize("name", ["x.fa", "x.bed", "x.vcf.gz"])
def test_each_rank_has_its_columns(comm: Any, agree: Any, folder: Path, name: str) -> None:
    expected = {
        "x.fa": one_hot_letters(PROTEINS, "-ACDEFGHIKLMNPQRSTVWY"), "x.bed": one_hot(COPIES),
        "x.vcf.gz": ALLELES.transpose(0, 2, 1).reshape(-1, ALLELES.shape[1]),
    }[name]  # fmt: skip
    data = open_dataset(str(folder / name), comm, test_fraction=0.0)
    owner = np.random.default_rng(5).integers(0, comm.size, data.n_visible)  # scattered, and not as many for each
    units = UnitLayout.from_owners(owner, comm.size).owned(comm.rank)
    agree(np.array_equal(values_of(data, units), expected[:, units]))


def test_errors_and_warnings_are_those_of_all(comm: Any, agree: Any, folder: Path) -> None:
    with pytest.raises(ModelparError, match="record 5") as caught:
        open_dataset(str(folder / "bad.fa"), comm)
    agree(len(set(comm.allgather(str(caught.value)))) == 1)
    if comm.rank == 0:
        with pytest.warns(ModelparWarning, match="are read as gaps"):
            open_dataset(str(folder / "x.fa"), comm)
    else:
        open_dataset(str(folder / "x.fa"), comm)
    with pytest.raises(ModelparError):  # of other options, on all ranks
        open_dataset(str(folder / "x.fa"), comm, alphabet="protein" if comm.rank else "AA")
    agree(True)
