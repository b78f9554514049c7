"""Layers and units."""

from __future__ import annotations

import os
from dataclasses import dataclass

from modelpar.errors import SpecError
from modelpar.patterns import Pattern, parse_image_shape, patterns
from modelpar.spec.base import Spec, option
from modelpar.units import VARIANCES, Visible, parse_visible
from modelpar.values import plain

HIDDEN = ("bernoulli", "gaussian", "relu", "drelu")  # kinds of hidden units


@dataclass(frozen=True)
class NetworkSpec(Spec):
    """A deep belief network: its layers, its units and its seed."""

    layers: tuple[int, ...] = option((64, 256, 256), "units of every layer, the visible one first, as in 784-500-500")
    classes: int = option(0, "classes of the softmax output layer; 0 for none", at_least=0, at_most=1 << 31)
    visible: str = option("bernoulli", "kind of visible units: bernoulli; spin, whose data are -1 and 1; categorical:Q, sites of Q units of which one is 1; or gaussian, real values, whose data are standardised")  # fmt: skip
    variances: str = option("learned", "variances of Gaussian visible units, given the hidden ones: learned, one for each unit, or 1, that of the standardised data", choices=VARIANCES)  # fmt: skip
    hidden: str = option("bernoulli", "kind of the last layer's hidden units: states, or real values, which may be Gaussian, rectified, or double rectified; the layers between have states",
                          choices=HIDDEN)  # fmt: skip
    layout: str = option("auto", "how weights are split: auto, column, row or dual, or one of these for each weight matrix, separated by commas")  # fmt: skip
    connections: str = option("dense", "which units are connected: dense, local:FIELD/STRIDE, mask:FILE, random:DEGREE, erdos-renyi:DENSITY, small-world:DEGREE/REWIRED, scale-free:DEGREE or radix-net:RADIXx.../COPIES, or one of these for each RBM, separated by commas", path="masks")  # fmt: skip
    visible_grid: str = option("", "shape of the visible layer, for local connections: rows x columns, or maps x rows x columns  [default: a square]")  # fmt: skip
    halo: str = option(
        "auto",
        "hidden states of other shards, where connections are not complete: receive them, or recompute them; auto: whichever is predicted to be faster",
        choices=("auto", "receive", "recompute"),
    )
    dtype: str = option("float32", "type of weights and activations", choices=("float32", "float64"))
    exact: bool = option(
        False,
        "the same bytes at every grid: sums in integers everywhere, states wherever they are needed for that",
    )
    seed: int = option(1, "seed of every random draw", at_least=0, below=2**63)
    weight_scale: float | None = option(
        None, "standard deviation of the initial weights  [default: sqrt(2 / connections of a visible and a hidden unit together), Glorot and Bengio 2010]",
        at_least=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.connections, os.PathLike):  # a mask
            object.__setattr__(self, "connections", f"mask:{os.fsdecode(self.connections)}")
        sides = plain.elements(self.visible_grid, 4)
        if sides is not None:
            sizes = [str(plain.integer_number("--visible-grid", side)) for side in sides]
            object.__setattr__(self, "visible_grid", "x".join(sizes))
        super().__post_init__()
        if len(self.layers) < 2:
            raise SpecError(
                f"--layers names {len(self.layers)} layer(s), but at least a visible and a hidden one are needed, as in 784-500"
            )
        if self.classes == 1:
            raise SpecError("--classes is 1, but a classifier needs at least 2 (or 0 for no output layer)")
        self._check_hidden()
        self.patterns  # noqa: B018 - raises where connections is not understood
        self.visible_kind.check_layer(self.layers[0])
        if self.visible_grid:
            parse_image_shape(self.visible_grid, self.layers[0])

    def _check_hidden(self) -> None:
        if self.hidden == "bernoulli":
            return
        if self.classes:
            raise SpecError(
                f"--hidden {self.hidden} goes with no output layer, whose fine-tuning needs Bernoulli units; use "
                "--classes 0, or --hidden bernoulli"
            )
        if self.exact:
            raise SpecError(
                f"--exact cannot be kept with --hidden {self.hidden}: real values do not add up exactly; use --hidden "
                "bernoulli, or leave --exact out"
            )

    def hidden_of(self, i: int) -> str:
        """The kind of hidden units of RBM ``i``: those between two RBMs are states."""
        return self.hidden if i == len(self.layers) - 2 else "bernoulli"

    @property
    def visible_kind(self) -> Visible:
        """What the visible units are.  Raises SpecError where ``visible`` is not understood."""
        return parse_visible(self.visible, self.variances)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """How the units of each RBM are connected."""
        return patterns(self.connections, len(self.layers) - 1)

    @property
    def has_lists(self) -> bool:
        """Whether some RBM's connections are not complete, and so are listed."""
        return not all(pattern.dense for pattern in self.patterns)
