"""Data sets: which rows (replicas), which columns (shards), and what becomes of their values."""

from modelpar.data.cache import packed_folder
from modelpar.data.columns import Columns
from modelpar.data.data_means import check_range, column_moments
from modelpar.data.dataset import Dataset, Split, Table
from modelpar.data.doubts import check_classes, check_training
from modelpar.data.feed import DataFeed, Feed
from modelpar.data.minibatches import Minibatches
from modelpar.data.opening import open_dataset, read_labels
from modelpar.data.packed_files import write_packed

__all__ = [
    "Columns", "DataFeed", "Dataset", "Feed", "Minibatches", "Split", "Table",
    "check_classes", "check_range", "check_training", "column_moments", "open_dataset", "packed_folder", "read_labels",
    "write_packed",
]  # fmt: skip
