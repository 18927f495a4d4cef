"""`sdhubert manifest`: what an input holds, as a Parquet file to segment from."""

from typing import Annotated

import typer

from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import Limit, Split, Where, read_piped, select
from sdhubert_ray.cli.running import waiting
from sdhubert_ray.cli.targets import Replace, check_file
from sdhubert_ray.errors import UserError


def manifest(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... MANIFEST.parquet",
            help="Files, folders, globs, shards, manifests, any URI, or - for a list on standard input; last the file "
            "or URI to write.",
        ),
    ],
    piece_seconds: Annotated[float, typer.Option(help="Longer audio is cut into pieces (audio.piece_seconds).")] = 600,
    where: Where = None,
    limit: Limit = None,
    split: Split = None,
    schemes: Annotated[
        list[str] | None,
        typer.Option(
            "--scheme",
            help="Of URIs that INPUT may name, beside files and object stores; may be repeated.",
            rich_help_panel=MORE,
        ),
    ] = None,
    overwrite: Replace = False,
) -> None:
    """List recordings, probe how long they are, cut long ones into pieces: a manifest for `sdhubert segment`."""
    from sdhubert_ray.corpus import list_inputs, write_manifest
    from sdhubert_ray.storage.entries import SCHEMES

    *inputs, target = paths
    if not inputs:
        raise UserError(f"{target} alone is given; name what is to be listed, and then the MANIFEST.parquet to write")
    check_file(target, overwrite, ".parquet")
    allowed = (*SCHEMES, *(schemes or ()))
    with waiting("listing"):
        listing = list_inputs(inputs, select(where, limit, split), allowed, "--scheme", read_piped(inputs))
    with waiting("looking at recordings", listing):
        summary = write_manifest(listing, target, piece_seconds)
    ignored = f", {summary.ignored} other files ignored" if summary.ignored else ""
    hours = summary.seconds / 3600
    print(f"{summary.num_recordings} recordings in {summary.num_rows} rows, {hours:.3f} hours{ignored}: {target}")
