"""A clustering that is checked and planned: what is to be done, and whether another run has begun it."""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdhubert_ray import storage
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.source import VectorSource, open_source
from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.engines import check_engine
from sdhubert_ray.units.quantizer import CARD, check_place, sklearn_files

WORK = "work"
SETTINGS = "settings.json"
ON_RAY_BYTES = 4 << 30
"""Smaller tables are clustered without Ray, unless told otherwise, if the sample is smaller, too."""
_DISK_SHARE = 0.9


@dataclass(frozen=True)
class ClusterJob:
    """A clustering that has been checked and not begun: nothing is written yet.

    Attributes:
        run_id: unique to this run.
        source: the segments table.
        output: where the quantizer goes, absolute.
        options: that decide the result.
        workers: that do not.
        settings: what decides the result, as it is compared with an earlier run's.
        sample_size: vectors to be taken.
        engine: `local` or `ray`.
        address: of a Ray cluster, or None.
        sklearn: whether the pair of the original system is written, too.
        overwrite: what earlier runs left is removed when work begins.
        finished: the output holds this quantizer already.
        resumes: an earlier run has begun it.
        notes: what is worth knowing before it begins.
    """

    run_id: str
    source: VectorSource
    output: str
    options: ClusterOptions
    workers: Workers
    settings: Mapping[str, object]
    sample_size: int
    engine: str
    address: str | None
    sklearn: bool
    overwrite: bool
    finished: bool
    resumes: bool
    notes: tuple[str, ...]

    @property
    def work(self) -> str:
        """The folder of what is needed on the way only."""
        return storage.join(self.output, WORK)


def prepare_clustering(
    source: str,
    output: str,
    options: ClusterOptions,
    workers: Workers,
    *,
    engine: str = "auto",
    address: str | None = None,
    sklearn: bool = False,
    overwrite: bool = False,
) -> ClusterJob:
    """Check everything that can be checked before work begins.

    Args:
        source: an output of `sdhubert segment`.
        output: a folder, new or of an earlier run of the same clustering.
        options: that decide the result.
        workers: that do not.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        sklearn: also write the pair that the original system reads.
        overwrite: remove what an earlier run left.

    Raises:
        UserError: anything that the caller has to mend.
    """
    check_engine(engine, address)
    if engine == "local" and workers.count is not None:
        raise UserError("the local engine is one process; leave out --workers, or take --engine ray")
    output = storage.absolute(output).rstrip("/")
    table = _open_enough(source, options)
    _check_folder(output, sklearn_files(options.n_clusters, options.n_units) if sklearn else ())
    settings = _settings(table, options)
    card, begun = (None, None) if overwrite else look_into(output, settings)
    finished, resumes = card is not None, card is None and begun is not None
    size = min(options.sample_size, table.num_vectors)
    notes: list[str] = []
    if begun is not None and resumes:
        size = int(begun["sample_size"])
    elif not finished:
        size, notes = _fit_on_disk(output, table, options, size)
    if engine == "auto":
        engine = "ray" if address or workers.count or _is_large(table, size) else "local"
    return ClusterJob(
        run_id=uuid.uuid4().hex[:12],
        source=table,
        output=output,
        options=options,
        workers=workers,
        settings=settings,
        sample_size=size,
        engine=engine,
        address=address,
        sklearn=sklearn,
        overwrite=overwrite,
        finished=finished,
        resumes=resumes,
        notes=tuple(notes),
    )


def _open_enough(uri: str, options: ClusterOptions) -> VectorSource:
    """A segments table that has a vector for each cluster. Raises UserError, TransientError."""
    source = open_source(uri)
    if source.num_vectors < options.n_clusters:
        raise UserError(
            f"{uri} has {source.num_vectors} syllables, fewer than --n-clusters {options.n_clusters}; take fewer "
            "clusters, or segment more"
        )
    return source


def _check_folder(output: str, more: Sequence[str]) -> None:
    """Raises UserError where a quantizer and `more` files have no place, or would take that of somebody's files."""
    begun = _read_begun(output) is not None
    there = check_place(output, begun)
    if begun:
        return
    work = storage.join(output, WORK)
    taken = [WORK] if storage.exists(work) and (not storage.is_folder(work) or storage.list_files(work)) else []
    taken += [name for name in more if not there and storage.exists(storage.join(output, name))]
    if taken:
        raise UserError(
            f"output {output} holds {taken[0]}, which no clustering is known to have written; choose another output"
        )


def _is_large(source: VectorSource, sample_size: int) -> bool:
    """Whether a table, or the sample of it, is too large for one process to be quick."""
    feature_bytes = sample_size * source.width * np.dtype(source.dtype).itemsize
    file_bytes = sum(file.size for file in source.files)
    return max(feature_bytes, file_bytes) >= ON_RAY_BYTES


def _settings(source: VectorSource, options: ClusterOptions) -> dict[str, object]:
    """What decides the result. Units in the table do not: whoever gives it some finds the quantizer finished still."""
    values = {**asdict(options), "max_vectors": options.sample_size}
    made_with = {key: value for key, value in source.fingerprint.items() if not key.startswith("quantizer.")}
    return {**values, "segments": source.digest, "segments_made_with": made_with}


def look_into(output: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The card of the quantizer in an output, and what a run has noted that began one; None where there is none.

    Raises:
        UserError: it is another quantizer, or cannot be read.
        TransientError: the store could not be reached.
    """
    card = read_json(storage.join(output, CARD))
    begun = _read_begun(output)
    if card is not None and "settings" not in card:
        raise UserError(f"output {output} holds another quantizer (imported); choose another output, or --overwrite it")
    for record in (card, begun):
        if record is not None:
            if not isinstance(record.get("settings"), dict):
                raise UserError(f"output {output} has a damaged record; choose another output, or --overwrite it")
            _refuse_other(output, record["settings"], settings)
    return card, begun


def _read_begun(output: str) -> dict[str, Any] | None:
    """What a run has noted that began a clustering and has not ended it, or None. Raises UserError, TransientError."""
    uri = storage.join(output, f"{WORK}/{SETTINGS}")
    begun = read_json(uri)
    kinds = {"sample_size": int, "seed_vectors": int, "settings": dict}
    if begun is not None and not all(isinstance(begun.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{uri} is no note of a clustering; choose another output")
    return begun


def _refuse_other(output: str, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError where an earlier clustering was another one."""
    differing = sorted(key for key in wanted if before.get(key) != wanted[key])
    if not differing:
        return
    if differing[0].startswith("segments"):
        told = "the segments have changed, or are others"
    else:
        told = ", ".join(f"{key} is {before.get(key)} there, {wanted[key]} now" for key in differing)
    raise UserError(f"output {output} holds another clustering ({told}); choose another output, or --overwrite it")


def _fit_on_disk(output: str, source: VectorSource, options: ClusterOptions, size: int) -> tuple[int, list[str]]:
    """How many vectors the output's disk has room for on the way, and what to say about it."""
    if not storage.is_local(output):
        return size, []
    folder = next(path for path in (Path(output), *Path(output).parents) if path.is_dir())
    each = source.width * np.dtype(source.dtype).itemsize + 8
    room = int(shutil.disk_usage(folder).free * _DISK_SHARE) - 16 * options.n_clusters * source.width
    fits = max(0, room) // each
    if fits >= size:
        return size, []
    if fits < options.n_clusters:
        raise UserError(
            f"the disk of {output} has no room for a sample of {options.n_clusters} vectors of {each} bytes; free it, "
            "or choose another output"
        )
    told = f"the sample is reduced to {fits} vectors from {size}: the disk of {output} has no room for more on the way"
    return fits, [told]


def read_json(uri: str) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file. Raises UserError, TransientError."""
    try:
        return storage.read_json(uri)
    except storage.TransientError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{uri} cannot be read ({error}); choose another output") from error


def write_json(uri: str, content: Mapping[str, object]) -> None:
    """Write a JSON object, whole. Raises UserError, TransientError."""
    storage.put(uri, json.dumps(content, indent=1).encode() + b"\n")
