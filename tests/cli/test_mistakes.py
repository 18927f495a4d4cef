"""What people mistype, or bring along: one sentence that says what to do."""

import json
import os
import pickle
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import SDHUBERT, complaint, sdhubert
from outputs import write_output
from segments import FINGERPRINT, clustered, write_segments


def test_the_version_is_told() -> None:
    assert sdhubert("--version").stdout == f"sdhubert_ray {version('sdhubert_ray')}\n"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"audio_filepath": ["a.wav"]}, "column 'uri' is list<item: string>, not string"),
        ({"audio_filepath": {"a": 1}}, "column 'uri' is struct<a: int64>, not string"),
        ({"audio_filepath": "a.wav", "n": 10**20}, "column 'n' has an integer of more than 64 bits; write it as text"),
        ({"audio_filepath": "a.wav", "duration": 10**20}, "column 'duration' has an integer of more than 64 bits"),
    ],
)
def test_odd_values_of_json(row: dict[str, object], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    assert sentence in complaint(sdhubert("manifest", tmp_path / "m.jsonl", tmp_path / "out.parquet", expect=2))


@pytest.mark.parametrize("value", [{}, [{}], {"a": {}}])
def test_what_no_column_can_hold_is_carried_as_text(value: object, golden: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    lines = [{"uri": str(golden / "audio/synth_3.flac"), "extra": value}, {"uri": str(golden / "audio/synth_0.flac")}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sdhubert("manifest", tmp_path / "m.jsonl", tmp_path / "out.parquet")
    kept = pq.read_table(tmp_path / "out.parquet").column("extra").to_pylist()
    assert [text and json.loads(text) for text in kept] == [value, None]


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write_segments(str(tmp_path / "table"), clustered(60, 4, 5), rows=6)


def test_recordings_that_are_there_are_named(table: str, tmp_path: Path) -> None:
    said = complaint(sdhubert("show", table, "speaker/0003.flac", expect=2))
    assert "did you mean 'speaker/00003.flac'" in said
    said = complaint(sdhubert("show", table, "zzz", expect=2))
    assert "its 6 recordings are called like 'speaker/00000.flac', 'speaker/00001.flac', 'speaker/00002.flac'" in said
    write_output(str(tmp_path / "empty"), [], FINGERPRINT)
    assert "has no recordings yet" in complaint(sdhubert("show", tmp_path / "empty", "a", expect=2))


@pytest.mark.parametrize("flag", ["--dedup", "--durations"])
def test_a_flag_that_would_change_nothing_is_refused(flag: str, table: str, tmp_path: Path) -> None:
    said = complaint(sdhubert("tokenize", table, "--quantizer", tmp_path / "q", flag, expect=2))
    assert f"{flag} is of sequences, and none are asked for; give --format" in said


def test_a_glob_that_the_shell_has_expanded(golden: Path, tmp_path: Path) -> None:
    files = sorted((golden / "audio").glob("*.flac"))
    said = complaint(sdhubert("segment", *files, "--checkpoint", "bundled", expect=2))
    assert f"output {files[-1]} is a file; name a folder" in said


def test_a_piece_length_that_cannot_be(golden: Path, tmp_path: Path) -> None:
    command = ["manifest", golden / "audio", tmp_path / "out.parquet", "--piece-seconds", "-1"]
    assert "audio.piece_seconds is -1; pieces need at least 20 seconds" in complaint(sdhubert(*command, expect=2))
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.filterwarnings("error")
def test_a_checkpoint_that_would_be_executed_is_refused_without_the_advice_to(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"config": {1, 2}}))
    said = complaint(
        sdhubert("segment", golden / "audio", tmp_path / "out", "--checkpoint", tmp_path / "bad.pt", expect=2)
    )
    assert "it holds other things than tensors and plain values" in said
    assert "weights_only" not in said


def test_a_cluster_of_the_environment_is_named(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be there later: exit code 1, as docs/cluster.md says."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    said = complaint(sdhubert("segment", golden / "audio", tmp_path / "out", "--checkpoint", "bundled", expect=1))
    assert "the Ray cluster at 127.0.0.1:1 (of RAY_ADDRESS) cannot be reached" in said


@pytest.mark.seconds
def test_another_module_called_mincut_is_noticed(golden: Path, tmp_path: Path) -> None:
    """People come from the original repository, which has one."""
    (tmp_path / "mincut.py").write_text("def min_cut(*_): return []\n")
    command = [SDHUBERT, "segment", golden / "audio", "out", "--checkpoint", "bundled"]
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "mincut.py is another module `mincut` than that of sdhubert_ray" in done.stderr.splitlines()[-1]


@pytest.mark.seconds
def test_a_terminal_of_no_columns_gets_its_table(golden: Path, tmp_path: Path) -> None:
    output = tmp_path / ("long" * 20)
    command = [SDHUBERT, "segment", golden / "audio", output, "--checkpoint", "bundled"]
    environment = {**os.environ, "COLUMNS": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "5 (5 ok)" in done.stdout
    assert str(output) in done.stdout


@pytest.mark.seconds
@pytest.mark.parametrize("command", [["--version"], ["status", "{table}", "--json"], ["show", "{table}"]])
def test_a_place_for_what_is_printed_that_is_full(command: list[str], table: str) -> None:
    words = [word.format(table=table) for word in command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([SDHUBERT, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    said = "what was to be printed cannot be written (No space left on device); free the place, or print elsewhere"
    assert done.stderr == f"sdhubert: {said}\n"


@pytest.mark.seconds
def test_a_reader_that_has_gone(table: str) -> None:
    with subprocess.Popen([SDHUBERT, "show", table], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate()
    assert process.returncode == 1
    assert said == b""
