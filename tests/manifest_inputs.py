"""Inputs that the tests of manifests make, and how they look at what is listed."""

import io
import json
import tarfile
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from sdhubert_ray import storage
from sdhubert_ray.corpus import list_input
from sdhubert_ray.corpus.shards import open_audio
from sdhubert_ray.errors import UserError


def refusal(call, *args):
    """The message with which a call refuses, checked to be one sentence."""
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert message == message.strip()
    assert not message.endswith((" has", ":", ","))
    return message


def fill(base, folder, *names):
    """Files that hold their own names, below a local folder or in memory; returns where."""
    if base == "remote":
        root = f"memory://{uuid.uuid4().hex}"
        for name in names:
            storage.put(storage.join(root, name), name.encode())
        return root
    touch(folder, *names)
    for name in names:
        (folder / name).write_text(name)
    return str(folder)


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_manifest(folder, rows, kind="jsonl"):
    """Write rows (dicts, all with the same keys) as a manifest, and return its path."""
    path = folder / f"manifest.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def write_audio(path, seconds, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate))
    soundfile.write(path, noise, rate)
    return str(path)


def read(listing):
    """All rows of a listing in one table, its batches checked to be of its schema and of bounded size."""
    batches = list(listing.batches)
    for batch in batches:
        assert batch.schema == listing.schema
        assert 0 < batch.num_rows <= 4096
    return pa.concat_tables(batches)


def list_table(source, *selection):
    return read(list_input(str(source), *selection))


def ids_and_uris(listing):
    table = read(listing)
    return list(zip(table.column("id").to_pylist(), table.column("uri").to_pylist(), strict=True))


def write_tar(path, members, fmt=tarfile.GNU_FORMAT):
    """A tar of (name, bytes) members, in order; bytes None makes a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=fmt) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


HF_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_hf(path, audio, row_group_size=2, **columns):
    """A Parquet file as the datasets hub has them: `audio` is a list of (bytes, path)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [{"bytes": data, "path": name} for data, name in audio]
    pq.write_table(pa.table({"audio": pa.array(values, HF_AUDIO), **columns}), path, row_group_size=row_group_size)
    return str(path)


def open_row(row):
    """The encoded audio of a listed row."""
    places = ("uri", "member", "byte_offset", "byte_size", "source_size")
    with open_audio(*(row.get(name) for name in places)) as file:
        return file.read()
