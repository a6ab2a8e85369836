"""Tables of results as Parquet, whose columns have types and which data frames read at once."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from parfocal.runtime.errors import InvalidInputError, PreconditionError


def require_parquet() -> None:
    """Raise PreconditionError where tables cannot be written as Parquet."""
    if find_spec("pyarrow") is None:
        raise PreconditionError(
            "Writing Parquet requires pyarrow, which is not installed: pip install 'parfocal[formats]', or pyarrow."
        )


def write_parquet(table: Path, target: Path) -> None:
    """Write a table (CSV with a line of names) as Parquet; names and values stay, numbers become numbers.

    Parameters
    ----------
    table
        The CSV file, in UTF-8.
    target
        The file to write.

    Raises
    ------
    InvalidInputError
        The file is no such table.
    """
    from pyarrow import ArrowInvalid, csv, parquet

    try:
        # All of it decides on the types: a column may begin with whole numbers and end with others.
        parquet.write_table(csv.read_csv(table), target, compression="zstd")
    except ArrowInvalid as error:
        target.unlink(missing_ok=True)
        raise InvalidInputError(f"{table.name} cannot be written as Parquet ({error}). Download it as CSV.") from error
