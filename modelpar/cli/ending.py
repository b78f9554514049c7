"""What a run that was killed near its end lacks, and how it is made up for.

At the end of pre-training a run keeps ``pretrained.safetensors`` and draws that network; after its last update it keeps
``model.safetensors``, draws the curves, and writes ``summary.json`` last.  Whatever of it is there was complete when it
appeared, and the rest follows from it.
"""

from __future__ import annotations

from modelpar import checkpoint
from modelpar.cli import pictures
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.terminal import Say
from modelpar.data import Dataset
from modelpar.errors import CheckpointError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.state import TrainingRun


def draw_missing(network: DeepBeliefNetwork, dataset: Dataset, directory: RunDirectory, say: Say) -> None:
    """Draw the pictures of a network that still generates, unless all of them are there.

    Of a network that was fine-tuned since, they are drawn from what it was before: they are the same, whenever they are
    drawn.  Collective.
    """
    if all(directory.has(name) for name in pictures.OF_NETWORK):
        return
    was_tuned = TrainingRun.of(network).position.stage == "done" and network.output is not None
    if was_tuned and dataset.image_shape is not None and directory.has(directory.pretrained.name):
        try:
            network = checkpoint.load(directory.pretrained, network.grid, network.layout, to_train=False)
        except CheckpointError as error:
            return say(f"no pictures of filters, reconstructions and samples: {error}")
    pictures.draw_network(network, dataset, directory, say)
