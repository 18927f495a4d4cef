"""Runs whose input and output lie on S3, through a proxy that breaks requests; the same audio in every form."""

import io
import json
import os
import tarfile
from collections import Counter
from unittest import mock

import commands
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3
from outputs import commits_in

from sdhubert_ray import storage
from sdhubert_ray.output import Lease, read_commit, read_segments
from sdhubert_ray.storage import retries

COLUMNS = ["key", "id", "status", "offset", "duration", "num_frames", "segments", "segment_features"]


def sdhubert(*arguments, expect=0, environment=None):
    """A command in this process, which finds the store by `environment` if it is given. It never tells the secret."""
    with mock.patch.dict(os.environ, environment or {}):
        return discreet(commands.sdhubert(*arguments, expect=expect))


def sdhubert_process(*arguments, expect=0, environment):
    """The same in a process of its own: workers of Ray take the environment of the process that has started them."""
    environment = {**os.environ, "RAY_ADDRESS": "", **environment}
    return discreet(commands.sdhubert_process(*arguments, expect=expect, env=environment))


def discreet(done):
    assert s3.SECRET not in done.stdout + done.stderr
    return done


def rows(output):
    """All rows of an output's files, by key; each key once."""
    tables = [read_commit(str(output), commit.name, COLUMNS) for commit in commits_in(output)]
    found = [row for table in tables for row in table.to_pylist()]
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """A request is made as often as ever, after pauses of a hundredth."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", retries.FIRST_PAUSE / 100)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", retries.LONGEST_PAUSE / 100)


@pytest.fixture(scope="module")
def audio(golden):
    """Names of forty recordings, and what they hold: the two shortest, as it is the requests that count."""
    return {f"sub{number % 3}/{number:02d}.flac": golden / f"audio/synth_{number % 2 * 3}.flac" for number in range(40)}


@pytest.fixture(scope="module")
def folder(audio, tmp_path_factory):
    """They on this machine's disk."""
    folder = tmp_path_factory.mktemp("local") / "audio"
    for name, path in audio.items():
        storage.put(str(folder / name), path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, tiny_checkpoint):
    """The rows of a run on local files."""
    output = folder.parent / "out"
    sdhubert("segment", folder, output, "--checkpoint", tiny_checkpoint, "--engine", "local")
    found = rows(output)
    assert len(found) == 40
    return found


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("local", 40),
        pytest.param("ray", 20, marks=[pytest.mark.ray, pytest.mark.slow]),
    ],  # Ray's workers make the long pauses
)
def test_a_run_through_a_broken_network_loses_nothing(
    engine, count, audio, undisturbed, s3_bucket, s3_server, tiny_checkpoint, tmp_path
):
    names = list(audio)[:count]
    for name in names:
        storage.put(f"{s3_bucket}/audio/{name}", audio[name].read_bytes())
    storage.put(f"{s3_bucket}/tiny.pt", tiny_checkpoint.read_bytes())
    upstream = tiny_checkpoint.parent / "upstream" / "config.json"
    storage.put(f"{s3_bucket}/upstream/config.json", upstream.read_bytes())
    proxy = s3.Proxy(s3_server.url, tmp_path / "faults.jsonl", rate=0.35, seed=7)
    try:
        command = ("segment", f"{s3_bucket}/audio", f"{s3_bucket}/out", "--checkpoint", f"{s3_bucket}/tiny.pt")
        run = sdhubert if engine == "local" else sdhubert_process
        small = ("resources.unit_rows=4", "resources.encode.max_workers=1")
        run(*command, "--engine", engine, *small, environment=s3.environment(proxy.url))
    finally:
        proxy.stop()
    faults = [fault["kind"] for fault in proxy.faults()]
    assert len(faults) >= 50, Counter(faults)
    assert len(set(faults)) >= 4, Counter(faults)
    assert rows(f"{s3_bucket}/out") == {f"{name}#0": undisturbed[f"{name}#0"] for name in names}


def test_a_store_that_refuses_a_recording_for_good_fails_that_row_alone(
    audio, undisturbed, s3_bucket, s3_server, tiny_checkpoint, tmp_path
):
    for name, path in audio.items():
        storage.put(f"{s3_bucket}/audio/{name}", path.read_bytes())
    storage.remove_files([f"{s3_bucket}/audio/sub1/07.flac"])
    listed = "".join(f"{name},{s3_bucket}/audio/{name}\n" for name in audio)
    (tmp_path / "m.csv").write_text("id,uri\n" + listed)
    proxy = s3.Proxy(s3_server.url, tmp_path / "faults.jsonl", kinds=("slowdown", "cut"))
    proxy.always.extend(["audio/sub2/05.flac", "audio/sub1/13.flac"])
    try:
        command = ("segment", tmp_path / "m.csv", f"{s3_bucket}/out", "--checkpoint", tiny_checkpoint)
        result = sdhubert(*command, "--engine", "local", expect=3, environment=s3.environment(proxy.url))
    finally:
        proxy.stop()
    statuses = {key: row["status"] for key, row in rows(f"{s3_bucket}/out").items() if row["status"] != "ok"}
    assert statuses == {"sub1/07.flac#0": "missing", "sub2/05.flac#0": "failed", "sub1/13.flac#0": "failed"}
    assert "failed: sub2/05.flac" in result.stderr
    good = {key: row for key, row in rows(f"{s3_bucket}/out").items() if row["status"] == "ok"}
    assert good == {key: row for key, row in undisturbed.items() if key not in statuses}
    # The store has recovered: what failed is done again, from the environment without the proxy.
    summary = sdhubert(*command, "--engine", "local", "--retry", "failed", expect=3)
    assert "2 rows to be tried again" in summary.stdout
    assert {key: row for key, row in rows(f"{s3_bucket}/out").items() if key != "sub1/07.flac#0"} == {
        key: row for key, row in undisturbed.items() if key != "sub1/07.flac#0"
    }


def test_a_store_that_is_not_there_is_one_sentence_and_exit_code_1(s3_bucket, tmp_path, tiny_checkpoint):
    dead = {**s3.environment("http://127.0.0.1:9"), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    result = sdhubert(
        "segment", f"{s3_bucket}/audio", tmp_path / "out", "--checkpoint", tiny_checkpoint, expect=1, environment=dead
    )
    assert result.stderr.count("\n") == 1
    assert f"{s3_bucket}/audio" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [("status", "{bucket}/out"), ("segment", "{audio}", "{bucket}/out")])
def test_an_output_that_cannot_be_reached_is_worth_another_try(command, folder, s3_bucket, tiny_checkpoint):
    dead = s3.environment("http://127.0.0.1:9")
    arguments = [word.format(bucket=s3_bucket, audio=folder) for word in command]
    checkpoint = ["--checkpoint", tiny_checkpoint] if command[0] == "segment" else []
    result = sdhubert(*arguments, *checkpoint, expect=1, environment=dead)
    assert result.stderr.count("\n") == 1
    assert f"{s3_bucket}/out" in result.stderr


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_store_that_takes_no_results_is_named_whatever_the_engine(
    engine, folder, s3_bucket, s3_server, tmp_path, tiny_checkpoint
):
    proxy = s3.Proxy(s3_server.url, tmp_path / "faults.jsonl", kinds=("slowdown",))
    proxy.always.append("/commits/00001-")
    try:
        command = ("segment", folder, f"{s3_bucket}/out", "--checkpoint", tiny_checkpoint)
        run = sdhubert if engine == "local" else sdhubert_process
        result = run(*command, "--engine", engine, expect=1, environment=s3.environment(proxy.url))
    finally:
        proxy.stop()
    said = [line for line in result.stderr.splitlines() if line.startswith("sdhubert: ")]
    assert len(said) == 1
    assert "SlowDown" in said[0]
    assert "/commits/00001-" in said[0]
    assert "the same command resumes" in said[0]
    assert "lease.json" not in storage.list_files(f"{s3_bucket}/out")


def test_an_object_with_two_colons_in_its_name_is_a_recording_like_others(
    audio, undisturbed, s3_bucket, tiny_checkpoint
):
    name, path = next(iter(audio.items()))
    storage.put(f"{s3_bucket}/odd/a::b#0 ?.flac", path.read_bytes())
    sdhubert("segment", f"{s3_bucket}/odd", f"{s3_bucket}/out", "--checkpoint", tiny_checkpoint, "--engine", "local")
    (row,) = rows(f"{s3_bucket}/out").values()
    assert (row["id"], row["status"]) == ("a::b#0 ?.flac", "ok")
    assert row["segments"] == undisturbed[f"{name}#0"]["segments"]


def test_a_second_run_on_an_output_in_a_store_is_refused(s3_bucket, audio, tiny_checkpoint):
    name, path = next(iter(audio.items()))
    storage.put(f"{s3_bucket}/audio/{name}", path.read_bytes())
    lease = Lease(f"{s3_bucket}/out", "theirs")
    try:
        result = sdhubert(
            "segment", f"{s3_bucket}/audio", f"{s3_bucket}/out", "--checkpoint", tiny_checkpoint, expect=1
        )
        assert "is being written by another run" in result.stderr
        assert json.loads(storage.read_bytes(f"{s3_bucket}/out/lease.json"))["run_id"] == "theirs"
    finally:
        lease.release()
    assert storage.list_files(f"{s3_bucket}/out") == []


def tar_of(audio):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in audio.items():
            tar.add(path, name)
    return buffer.getvalue()


def parquet_of(audio):
    table = pa.table(
        {"audio": [{"bytes": path.read_bytes(), "path": name} for name, path in audio.items()], "id": list(audio)}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=15)
    return buffer.getvalue()


@pytest.mark.slow
def test_the_same_audio_in_every_form_gives_the_same_segments(audio, undisturbed, s3_bucket, tiny_checkpoint, tmp_path):
    for name, path in audio.items():
        storage.put(f"{s3_bucket}/prefix/{name}", path.read_bytes())
    names = list(audio)
    for shard in range(2):
        part = {name: audio[name] for name in names[20 * shard : 20 * shard + 20]}
        storage.put(f"{s3_bucket}/tars/shard-{shard:03d}.tar", tar_of(part))
        storage.put(f"{s3_bucket}/parquet/{shard}.parquet", parquet_of(part))
    manifest = tmp_path / "all.parquet"
    sdhubert("manifest", f"{s3_bucket}/prefix", manifest)
    inputs = {
        "prefix": f"{s3_bucket}/prefix",
        "tars": f"{s3_bucket}/tars/shard-{{000..001}}.tar",
        "parquet": f"{s3_bucket}/parquet",
        "manifest": manifest,
    }
    expected = {row["id"]: (row["status"], row["segments"], row["segment_features"]) for row in undisturbed.values()}
    for kind, source in inputs.items():
        output = f"{s3_bucket}/out-{kind}"
        sdhubert("segment", source, output, "--checkpoint", tiny_checkpoint, "--engine", "local")
        found = {}
        for row in rows(output).values():
            name = row["id"].partition("/")[2] if kind == "tars" else row["id"]
            found[name] = (row["status"], row["segments"], row["segment_features"])
        assert found == expected, kind
        assert len(list(read_segments(output))) == 40
