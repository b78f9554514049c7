"""The options of the user: frozen values, validated once, the same on every rank.

Each field carries the help text that the command line shows; the command line, the TOML file and the Python API all
read these classes, so an option is written down once.
"""

from modelpar.spec.base import MOST_LAYERS, Spec, option, option_name
from modelpar.spec.data import AUTO, DATA_SETS, DRAWN_SETS, WEIGHT_WORDS, DataSpec
from modelpar.spec.network import NetworkSpec
from modelpar.spec.sync import SyncSpec
from modelpar.spec.training import SCHEDULES, FineTuneSpec, TrainingSpec

__all__ = [
    "AUTO",
    "DATA_SETS",
    "DRAWN_SETS",
    "MOST_LAYERS",
    "SCHEDULES",
    "WEIGHT_WORDS",
    "DataSpec",
    "FineTuneSpec",
    "NetworkSpec",
    "Spec",
    "SyncSpec",
    "TrainingSpec",
    "option",
    "option_name",
]
