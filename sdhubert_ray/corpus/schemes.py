"""Which places the rows of a manifest may name: whoever wrote it is not always who runs, and with what credentials."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import pyarrow as pa

from sdhubert_ray.corpus.selection import Source
from sdhubert_ray.errors import UserError
from sdhubert_ray.storage.retries import shown


def allow(source: Source, uri: str, schemes: Collection[str], option: str) -> Source:
    """The rows of a manifest, refused where one names a place of a scheme that is not allowed.

    Args:
        source: the manifest.
        uri: its own, beside which all of its scheme and host may lie.
        schemes: those that are allowed.
        option: what the user allows more by.

    Raises:
        UserError: while it is read.
    """
    own = _place(uri)

    def read() -> Iterator[pa.Table]:
        for batch in source.read():
            for name, place in zip(batch.column("id").to_pylist(), batch.column("uri").to_pylist(), strict=True):
                if place is None:
                    raise UserError(f"{source.where}: id {name!r} has no uri")
                scheme, host = _place(place)
                if scheme not in schemes and (scheme, host) != own:
                    raise UserError(
                        f"{source.where}: id {name!r} is at {shown(place)}, but only {', '.join(schemes)} are fetched "
                        f"from; allow {scheme} by {option} if that is meant"
                    )
            yield batch

    return replace(source, read=read)


def _place(uri: str) -> tuple[str, str]:
    scheme, mark, rest = uri.partition("://")
    return (scheme, rest.partition("/")[0]) if mark else ("file", "")
