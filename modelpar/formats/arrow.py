"""Tables of numbers in Parquet and CSV files, read by pyarrow (the extra ``tables``): a column is a unit.

A Parquet file is read a row group at a time, and of it only the columns that are asked for; of a CSV file all is
parsed, some MiB at a time, as its lines have to be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError, one_line
from modelpar.files.regular import check_regular, open_regular
from modelpar.formats.reading import is_gzip, reading

Array = npt.NDArray[Any]

PARQUET_START = b"PAR1"
CSV_ENDINGS = {".csv": ",", ".tsv": "\t"}  # and what stands between values
_BLOCK = 1 << 24  # bytes of a CSV file, or values of a Parquet file times their size, that are read at once
_MOST_LETTERS = 120  # of the library's own words in a message


def delimiter_of(path: Path) -> str:
    """That of a CSV file by its name, gzip or not; empty for other names."""
    name = path.name.lower().removesuffix(".gz")
    return next((sign for ending, sign in CSV_ENDINGS.items() if name.endswith(ending)), "")


class ParquetTable:
    """The columns of a Parquet file, of one common type.   label_names: of a column that has labels, in lower case

    gaps       whether values may be missing: they are NaN, for which integers become floats, or
    integers   -1, where integers stay such
    Raises DataError where columns are no numbers, or pyarrow is not installed.
    """

    def __init__(
        self, path: Path, label_names: Sequence[str] = (), *, gaps: bool = False, integers: bool = False
    ) -> None:  # fmt: skip
        self.path, self.name, self.gaps = path, str(path), gaps
        with self._opened() as file:
            schema, n_rows = file.schema_arrow, int(file.metadata.num_rows)
        self.label, self.names = _parted(path, schema.names, label_names)
        types = [_numpy_type(path, schema.field(schema.names.index(name))) for name in self.names]
        self.dtype: np.dtype[Any] = np.result_type(*types)
        self.shape: tuple[int, ...] = (n_rows, len(self.names))
        if gaps and self.dtype.kind != "f" and not integers and self._has_gaps():
            self.dtype = np.result_type(self.dtype, np.float32)

    def _has_gaps(self) -> bool:
        with self._opened() as file:
            batches = file.iter_batches(max(1, _BLOCK // max(1, 8 * len(self.names))), columns=self.names)
            return any(column.null_count for batch in batches for column in batch.columns)

    def blocks(self, units: slice) -> Iterator[Array]:
        """The columns ``units`` of all rows (n, columns), some rows at a time.  Raises DataError."""
        return self._blocks(self.names[units], self.dtype)

    def labels(self) -> Array | None:
        """Of the column that has them."""
        if self.label is None:
            return None
        return np.concatenate([rows[:, 0] for rows in self._blocks([self.label], None)] or [np.empty(0, np.int64)])

    def _blocks(self, names: list[str], dtype: np.dtype[Any] | None) -> Iterator[Array]:
        at_once, start = max(1, _BLOCK // max(1, 8 * len(names))), 0
        with self._opened() as file:
            batches = file.iter_batches(at_once, columns=names, use_threads=False)
            while batch := next(batches, None):
                yield _values(self.path, batch, names, dtype, start, gaps=self.gaps and dtype is not None)
                start += batch.num_rows

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        parquet = _pyarrow("parquet")
        with _reading(self.path, "Parquet"):
            check_regular(self.path)
            with parquet.ParquetFile(os.fspath(self.path)) as file:
                yield file


class CsvTable:
    """The columns of a CSV file, plain or gzip, as float32, or as integers.

    The first line has the names of the columns, unless all of it are numbers.  Reads all of it once, for the number of
    rows.  ``gaps`` as of :class:`ParquetTable`.  Raises DataError for what is not a number, for lines of another number
    of values, and without pyarrow.
    """

    def __init__(
        self, path: Path, label_names: Sequence[str] = (), *, integers: bool = False, gaps: bool = False
    ) -> None:  # fmt: skip
        self.path, self.name, self.gaps = path, str(path), gaps
        self.dtype: np.dtype[Any] = np.dtype(np.int64 if integers else np.float32)
        self.has_names = True
        first = self._names()
        if all(_is_number(word) for word in first):
            self.has_names = False
            first = self._names()
        self.label, self.names = _parted(path, first, label_names)
        self._kept: list[Array] = []
        n_rows = sum(len(rows) for rows in self._blocks(self.names[:1]))
        self.shape: tuple[int, ...] = (n_rows, len(self.names))

    def blocks(self, units: slice) -> Iterator[Array]:
        """See :meth:`ParquetTable.blocks`."""
        return self._blocks(self.names[units])

    def labels(self) -> Array | None:
        """See :meth:`ParquetTable.labels`."""
        return None if self.label is None else np.concatenate([rows[:, 0] for rows in self._blocks([self.label])])

    def _names(self) -> list[str]:
        with self._opened([]) as reader:
            return list(reader.schema.names)

    def _blocks(self, names: list[str]) -> Iterator[Array]:
        start = 0
        with self._opened(names) as reader:
            for batch in reader:
                yield _values(self.path, batch, names, self.dtype, start, gaps=self.gaps and names != [self.label])
                start += batch.num_rows

    @contextmanager
    def _opened(self, names: list[str]) -> Iterator[Any]:
        pyarrow, csv = _pyarrow(), _pyarrow("csv")
        types = {name: pyarrow.from_numpy_dtype(self.dtype) for name in names}
        with _reading(self.path, "CSV"):
            with open_regular(self.path) as file:
                packed = is_gzip(file.read(2))
            reader = csv.open_csv(
                # by its name: a thread of the library that reads a Python file could wait for the interpreter's end
                pyarrow.input_stream(os.fspath(self.path), compression="gzip" if packed else None),
                csv.ReadOptions(use_threads=False, block_size=_BLOCK, autogenerate_column_names=not self.has_names),
                csv.ParseOptions(delimiter=delimiter_of(self.path) or ","),
                csv.ConvertOptions(column_types=types, include_columns=names),
            )
            with reader:
                yield reader


def _parted(path: Path, names: list[str], label_names: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name of the column of labels, and those of all others.  Raises DataError."""
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise DataError(f"{path} has two columns {min(twice)[:40]!r}; give each a name of its own")
    label = next((name for name in names if name.lower() in label_names), None)
    others = [name for name in names if name != label]
    if not others:
        raise DataError(f"{path} has no columns of samples; get a new copy")
    return label, others


def _numpy_type(path: Path, field: Any) -> np.dtype[Any]:
    types = _pyarrow("types")
    if not (types.is_boolean(field.type) or types.is_integer(field.type) or types.is_floating(field.type)):
        raise DataError(
            f"column {field.name[:40]!r} of {path} holds {str(field.type)[:40]}, but numbers are needed; leave it out"
        )
    return np.dtype(field.type.to_pandas_dtype())


def _values(
    path: Path, batch: Any, names: list[str], dtype: np.dtype[Any] | None, start: int, *, gaps: bool
) -> Array:  # fmt: skip
    """(rows, columns) of a batch.  Raises DataError where one is missing, unless ``gaps`` are -1 or NaN."""
    columns = []
    for name in names:
        column = batch.column(name)
        if column.null_count and gaps:
            of_integers = dtype is not None and dtype.kind != "f"
            column = column.cast("float64").fill_null(-1.0 if of_integers else np.nan)
        elif column.null_count:
            row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{path} has no value in row {row + 1} of column {name[:40]!r}; fill it, or leave it out")
        columns.append(column.to_numpy(zero_copy_only=False))
    rows = np.empty((batch.num_rows, len(names)), dtype or columns[0].dtype)
    for i, column in enumerate(columns):
        rows[:, i] = column
    return rows


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """What the library says, in one line."""
    arrow = _pyarrow()
    with reading(path):
        try:
            yield
        except (DataError, FileNotFoundError):
            raise
        except (arrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            said = one_line(str(error)).split("  ")[0][:_MOST_LETTERS]
            raise DataError(f"{path} cannot be read as {what}: {said}") from None


def _pyarrow(part: str = "") -> Any:
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{part}" if part else "pyarrow")
    except ImportError:
        raise DataError(
            "Parquet and CSV files need pyarrow, which is not installed: pip install 'modelpar[tables]'"
        ) from None
