"""Adversarial accuracy of packed samples: are the nearest neighbours of samples and data in their own set?

Yale, Dash, Dutta, Guyon, Pavao and Bennett (2020), Neurocomputing 416, equation 1.  ``diagnosis.neighbours`` has it for
activations over a grid; this one is for whole files of bits, tens of thousands of units wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelpar.analysis.bits import Words
from modelpar.kernels.states import count_ones
from modelpar.kernels.threads import split

IntArray = npt.NDArray[np.int64]

ROWS, WORDS = 16, 256  # samples against as many others, and words of them, that are compared at a time: 512 KiB
FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Accuracy:
    """How often the nearest neighbour is in one's own set; one half where both are of one distribution.

    truth      of the data: near 1 where samples stay away from some of them, below 1/2 where they copy them
    synthetic  of the samples: near 1 where they are unlike the data, below 1/2 where they are copies
    """

    truth: float
    synthetic: float


def nearest_distances(a: Words, b: Words, *, same: bool = False) -> IntArray:
    """Hamming distances (n_a,) from each sample of ``a`` to the nearest one of ``b``; with ``same`` to another one.

    Tile by tile, so that never more than some rows of the distances are in memory.
    """
    result = np.full(len(a), FAR, np.int64)

    def rows(first: int, last: int) -> None:
        for i in range(first, last, ROWS):
            mine = a[i : min(i + ROWS, last)]
            for j in range(0, len(b), ROWS):
                others = b[j : j + ROWS]
                distances = np.zeros((len(mine), len(others)), np.int64)
                for w in range(0, a.shape[1], WORDS):
                    different = mine[:, None, w : w + WORDS] ^ others[None, :, w : w + WORDS]
                    distances += count_ones(different).sum(axis=2, dtype=np.int64)
                if same and i < j + len(others) and j < i + len(mine):
                    k = np.arange(max(i, j), min(i + len(mine), j + len(others)))
                    distances[k - i, k - j] = FAR
                np.minimum(result[i : i + len(mine)], distances.min(axis=1), out=result[i : i + len(mine)])

    split(len(a), ROWS, rows)
    return result


def adversarial_accuracy(truth: Words, synthetic: Words) -> Accuracy:
    """Of two sets of as many packed samples, (samples, words); where both neighbours are as far, one half is counted.

    Raises ValueError where the sizes differ, or are less than 2.
    """
    if truth.shape != synthetic.shape or len(truth) < 2:
        raise ValueError(
            f"sets are {truth.shape} and {synthetic.shape}; two of the same size are needed, with 2 samples or more"
        )
    return Accuracy(
        _part(nearest_distances(truth, synthetic), nearest_distances(truth, truth, same=True)),
        _part(nearest_distances(synthetic, truth), nearest_distances(synthetic, synthetic, same=True)),
    )


def _part(other: IntArray, own: IntArray) -> float:
    return float((other > own).mean() + 0.5 * (other == own).mean())
