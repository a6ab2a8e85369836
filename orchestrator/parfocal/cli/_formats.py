"""Options for the formats in which results are downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from parfocal.client.exports import Formats

FORMATS = (
    click.option(
        "--images",
        type=click.Choice(["tiff", "ome-zarr", "ome-zarr-0.4"]),
        default="tiff",
        show_default=True,
        help="Format of downloaded images: OME-TIFF, OME-Zarr 0.5, or OME-Zarr 0.4 for older programs.",
    ),
    click.option(
        "--tables",
        type=click.Choice(["csv", "parquet"]),
        default="csv",
        show_default=True,
        help="Format of downloaded tables.",
    ),
)
"""To be added to commands by `with_options`."""


def formats_of(images: Any, tables: Any) -> Formats:
    """Return what these options say; raise PreconditionError where packages are missing that write the formats."""
    from parfocal.client.exports import Formats
    from parfocal.client.formats.tables import require_parquet

    if tables == "parquet":
        # Before hours are spent on results.
        require_parquet()
    return Formats(images, tables)
