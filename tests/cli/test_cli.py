"""The command line as a user meets it: one clear sentence per mistake, the right exit code. See test_processes.py."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from commands import complaint, sdhubert
from outputs import commits_in
from places import ROOT


@pytest.fixture
def speech(golden: Path) -> np.ndarray:
    return soundfile.read(golden / "audio/synth_2.flac", dtype="float32")[0]


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """One good recording."""
    (tmp_path / "audio").mkdir()
    shutil.copy(golden / "audio/synth_0.flac", tmp_path / "audio")
    return tmp_path / "audio"


def table(output: Path) -> dict[str, dict[str, object]]:
    files = [output / commit.name for commit in commits_in(output)]
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    return {str(row["id"]): row for row in rows}


def test_help_comes_without_torch_or_ray() -> None:
    code = (
        "import sys, sdhubert_ray.cli as cli\n"
        "try: cli.app(['segment', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for option in (
        "--checkpoint",
        "--preset",
        "--format",
        "--device",
        "--dtype",
        "--address",
        "--engine",
        "--overwrite",
    ):
        assert option in result.stdout


def test_segment_and_show(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = sdhubert("segment", folder, output, "--checkpoint", "bundled", "--frame-features", "float32")
    assert "RANDOM" not in result.stderr
    for word in ("1 ok", "hours", "per second of speech", "real-time factor", "decode", "encode", "cut", str(output)):
        assert word in result.stdout
    shown = sdhubert("show", output, "-o", tmp_path / "figure.png")
    assert "synth_0.flac: ok" in shown.stdout
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    again = sdhubert("segment", folder, output, "--checkpoint", "bundled", "--frame-features", "float32")
    assert "1 of 1 rows are done already and skipped" in again.stdout
    assert "dtype" in complaint(
        sdhubert("segment", folder, output, "--checkpoint", "bundled", "--dtype", "bfloat16", expect=2)
    )
    sdhubert("segment", folder, output, "--checkpoint", "bundled", "--overwrite")
    assert "frame_features" not in table(output)["synth_0.flac"]
    assert "no recording 'x.wav'" in complaint(sdhubert("show", output, "x.wav", expect=2))


def test_further_formats(folder: Path, tmp_path: Path) -> None:
    sdhubert(
        "segment", folder, tmp_path / "out", "--checkpoint", "bundled", "--format", "files", "--format", "textgrid"
    )
    lines = (tmp_path / "out" / "synth_0_segments.txt").read_text().splitlines()
    segments = table(tmp_path / "out")["synth_0.flac"]["segments"]
    assert lines == [f"{segment['start']:.3f}, {segment['end']:.3f}" for segment in segments]
    assert np.load(tmp_path / "out" / "synth_0_feature.npy").ndim == 2
    assert len(np.load(tmp_path / "out" / "synth_0_segmentfeature.npy")) == len(lines)
    assert "IntervalTier" in (tmp_path / "out" / "synth_0.TextGrid").read_text()


# --- what is wrong with a recording becomes its status, and the others are done --------------------------------------


def damage(kind: str, path: Path, speech: np.ndarray) -> Path:
    """Write a recording with a defect."""
    path = path / {"truncated flac": "bad.flac"}.get(kind, "bad.wav")
    if kind == "text renamed":
        path.write_text("this is no audio\n" * 50)
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "0.05 s":
        soundfile.write(path, speech[:800], 16_000)
    elif kind == "silence":
        soundfile.write(path, np.zeros(32_000), 16_000)
    elif kind == "NaN samples":
        soundfile.write(path, np.where(np.arange(len(speech)) == 8000, np.nan, speech), 16_000, subtype="FLOAT")
    else:  # the first half of the file
        soundfile.write(path, speech, 16_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        ("text renamed", "unreadable", "is not audio that can be decoded"),
        ("empty file", "unreadable", "is an empty file"),
        ("NaN samples", "unreadable", "holds NaN or infinite samples, the first at 0.500 s"),
        ("truncated flac", "truncated", "is damaged: decoding stopped at"),
        ("half a wav", "truncated", "is truncated: its header promises"),
        ("0.05 s", "too_short", None),
        ("silence", "silent", None),
    ],
)
def test_bad_recording(
    kind: str, status: str, sentence: str | None, folder: Path, speech: np.ndarray, tmp_path: Path
) -> None:
    path = damage(kind, folder, speech)
    lost = status == "unreadable"
    result = sdhubert("segment", folder, tmp_path / "out", "--checkpoint", "bundled", expect=3 if lost else 0)
    rows = table(tmp_path / "out")
    assert rows["synth_0.flac"]["status"] == "ok"
    row = rows[path.name]
    assert row["status"] == status
    if sentence is None:
        assert row["error"] is None
        assert row["segments"] == []
    else:
        assert str(row["error"]).startswith(f"{path} {sentence}")
    assert (f"{status}: {path.name}: {path}" in result.stderr) == lost
    if status == "truncated":
        assert 0 < float(str(row["duration"])) < len(speech) / 16_000
        assert row["segments"]
    if lost:
        sdhubert("segment", folder, tmp_path / "out", "--checkpoint", "bundled", "--max-failed", "1")


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_other_rates_and_stereo(rate: int, folder: Path, speech: np.ndarray, tmp_path: Path) -> None:
    import soxr

    resampled = soxr.resample(speech, 16_000, rate)
    soundfile.write(folder / "mono.wav", resampled, rate, subtype="FLOAT")
    soundfile.write(folder / "stereo.wav", np.stack([resampled, resampled], axis=1), rate, subtype="FLOAT")
    soundfile.write(folder / "left.wav", np.stack([resampled, 0 * resampled], axis=1), rate, subtype="FLOAT")
    sdhubert("segment", folder, tmp_path / "out", "audio.channel=0", "--checkpoint", "bundled")
    rows = table(tmp_path / "out")
    assert rows["mono.wav"]["num_frames"] == len(speech) // 320
    assert rows["mono.wav"]["segments"] == rows["stereo.wav"]["segments"] == rows["left.wav"]["segments"] != []


def test_a_recording_without_a_pause(folder: Path, tmp_path: Path) -> None:
    """Noise is one span of 80 s; it is split, so that min-cut stays within its limit."""
    noise = np.random.default_rng(0).standard_normal(80 * 16_000 - 1).astype(np.float32)
    soundfile.write(folder / "noise.wav", 0.1 * noise, 16_000)
    (folder / "synth_0.flac").unlink()
    # A threshold below any norm: all of it is one span.
    sdhubert(
        "segment", folder, tmp_path / "out", "speech.normcut_threshold=-100", "--checkpoint", "bundled",
        "--frame-features", "float16",
    )  # fmt: skip
    row = table(tmp_path / "out")["noise.wav"]
    spans = np.array([(span["start"], span["end"]) for span in row["spans"]])
    assert spans[0, 0] == 0
    assert spans[-1, 1] == row["num_frames"] == 3999
    assert (spans[1:, 0] == spans[:-1, 1]).all()
    assert (spans[:, 1] - spans[:, 0]).max() <= 1500


# --- what is wrong with the command is one sentence, exit code 2, and nothing is written -----------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{missing}", "{out}", "--checkpoint", "bundled"],
         "does not exist; name a file, a folder, a glob or a manifest"),
        (["{empty}", "{out}", "--checkpoint", "bundled"], "has no audio: it holds no files"),
        (["{audio}/*.ogg", "{out}", "--checkpoint", "bundled"], "matches no file"),
        (["{audio}", "{out}", "--checkpoint", "{missing}.pt"], "does not exist; give a path or URI"),
        (["{audio}", "{out}", "--checkpoint", "{audio}/synth_0.flac"],
         "cannot be read without executing it, or is damaged"),
        (["{audio}", "{out}", "--checkpoint", "{audio}"], "is a folder; name the .pt file in it"),
        (["{audio}", "{out}", "syllables.syl_durr=0.2"],
         "unknown config key 'syllables.syl_durr'; did you mean 'syllables.syl_dur'?"),
        (["{audio}", "{out}", "syl_dur=0.2"], "did you mean 'syllables.syl_dur'?"),
        (["{audio}", "{out}", "syllables.syl_dur=long"], "syllables.syl_dur"),
        (["{audio}", "{out}", "syllables.syl_dur=-1"], "syllables.syl_dur is -1"),
        (["{audio}", "{out}", "--preset", "readmee"], "unknown preset 'readmee'; the presets are readme, paper,"),
        (["{audio}", "{out}", "--dtype", "float8"], "dtype is 'float8'; it has to be one of"),
        (["{audio}", "{out}", "--format", "tsv"], "output.formats is 'tsv'"),
        (["{audio}", "{out}", "--config", "{missing}.yaml"], "does not exist"),
        (["{audio}", "{out}", "--checkpoint", "bundled", "encoder.layer=13"],
         "encoder.layer is 13, but checkpoint bundled has 6"),
        (["{audio}", "{out}", "--checkpoint", "bundled", "--engine", "spark"], "engine is 'spark'"),
        (["{audio}/synth_0.flac", "{audio}/synth_0.flac", "--checkpoint", "bundled"], "is a file; name a folder"),
        (["{audio}", "{audio}/out", "--checkpoint", "bundled"], "choose an output outside of it"),
        (["{audio}", "/proc/sdhubert/out", "--checkpoint", "bundled"], "cannot be written"),
    ],
)  # fmt: skip
def test_refused(arguments: list[str], sentence: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    names = {"missing": tmp_path / "nowhere", "empty": tmp_path / "empty", "audio": folder, "out": tmp_path / "out"}
    result = sdhubert("segment", *(argument.format(**names) for argument in arguments), expect=2)
    assert sentence in complaint(result)
    assert not (tmp_path / "out").exists()


def test_two_recordings_of_one_id(folder: Path, tmp_path: Path) -> None:
    lines = "id,uri\na,synth_0.flac\na,other.flac\n"
    (folder / "list.csv").write_text(lines)
    result = sdhubert("segment", folder / "list.csv", tmp_path / "out", "--checkpoint", "bundled", expect=2)
    assert f"id 'a' stands twice, for {folder}/synth_0.flac and {folder}/other.flac" in complaint(result)
    assert not (tmp_path / "out").exists()


def test_missing_file_of_a_manifest(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("id,uri\na,synth_0.flac\nb,gone.flac\n")
    result = sdhubert("segment", folder / "list.csv", tmp_path / "out", "--checkpoint", "bundled", expect=3)
    assert f"missing: b: {folder}/gone.flac does not exist" in result.stderr
    assert {name: row["status"] for name, row in table(tmp_path / "out").items()} == {"a": "ok", "b": "missing"}


def test_gpu_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = sdhubert("segment", folder, tmp_path / "out", "--checkpoint", "bundled", "--device", "cuda", expect=2)
    assert "torch sees no GPU here" in complaint(result)
    assert not (tmp_path / "out").exists()


def test_dead_cluster(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound and not listening: nothing answers there
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        result = sdhubert(
            "segment", folder, tmp_path / "out", "--checkpoint", "bundled", "--address", address, expect=1
        )
    assert f"the Ray cluster at {address} cannot be reached" in complaint(result)
    assert not (tmp_path / "out").exists()


def test_another_recording_of_the_same_id_is_not_done(folder: Path, golden: Path, tmp_path: Path) -> None:
    sdhubert("segment", folder, tmp_path / "out", "--checkpoint", "bundled")
    (tmp_path / "other").mkdir()
    shutil.copy(golden / "audio/synth_1.flac", tmp_path / "other" / "synth_0.flac")
    result = sdhubert("segment", tmp_path / "other", tmp_path / "out", "--checkpoint", "bundled", expect=2)
    assert f"from {folder}/synth_0.flac, the input now has {tmp_path}/other/synth_0.flac" in complaint(result)


def test_overwriting_touches_nothing_until_work_begins(folder: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    sdhubert("segment", folder, tmp_path / "out", "--checkpoint", "bundled")
    before = table(tmp_path / "out")
    sdhubert(
        "segment", folder, tmp_path / "out", "--checkpoint", "bundled", "--overwrite", "--device", "cuda", expect=2
    )
    assert table(tmp_path / "out") == before


def test_manifest_that_asks_for_more_than_the_file_has(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("id,uri,start,end\na,synth_0.flac,1.0,1e6\nb,synth_0.flac,0.5,2.5\n")
    sdhubert("segment", folder / "list.csv", tmp_path / "out", "--checkpoint", "bundled")
    rows = table(tmp_path / "out")
    assert rows["a"]["status"] == "truncated"
    assert "before the 1000000.000 s that were asked for" in str(rows["a"]["error"])
    assert rows["b"]["status"] == "ok"
    assert (rows["b"]["offset"], rows["b"]["duration"], rows["b"]["num_frames"]) == (0.5, 2.0, 100)
    assert min(segment["start"] for segment in rows["b"]["segments"]) >= 0.5


def test_syllables_are_shown_beside_the_true_ones(golden: Path, tmp_path: Path) -> None:
    """What `make demo` shows: the bundled checkpoint finds the syllables of speech that it was not trained on."""
    demo, output = ROOT / "sdhubert_ray/assets/demo", tmp_path / "out"
    sdhubert("segment", demo, output, "--checkpoint", "bundled", "--frame-features", "float16")
    truth = json.loads((demo / "syllables.json").read_text())
    for name in ("synth_0", "synth_2"):
        beside = ("--references", demo / "syllables.json", "--limit", "100", "-o", tmp_path / f"{name}.png")
        shown = sdhubert("show", output, f"{name}.flac", *beside)
        labels = [syllable["label"] for syllable in truth[name]["syllables"]]
        told = [line.split("│") for line in shown.stdout.splitlines() if line.startswith("│")]
        assert [cells[6].strip() for cells in told if cells[6].strip()] == labels
        starts = [float(cells[2]) for cells in told if cells[2].strip()]
        assert starts == sorted(starts)
        assert len(starts) == len(table(output)[f"{name}.flac"]["segments"])
        (f1,) = re.findall(r"F1 ([\d.]+)", shown.stdout)
        assert float(f1) > 0.6
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    other = golden / "evaluation/syllables_test.json"
    said = complaint(sdhubert("show", output, "synth_0.flac", "--references", other, expect=2))
    assert "has no reference for recording 'synth_0.flac'; those there are called like" in said
    above = tmp_path / "above.json"
    above.write_text(
        json.dumps({f"set/{name}": {**one, "file_name": f"set/{name}.flac"} for name, one in truth.items()})
    )
    said = complaint(sdhubert("show", output, "synth_0.flac", "--references", above, expect=2))
    assert said.endswith("it has one with --rename set/=")
    shown = sdhubert("show", output, "synth_0.flac", "--references", above, "--rename", "set/=")
    assert "true syllables: F1" in shown.stdout


def test_a_preset_that_the_checkpoint_overrules_is_told(tmp_path: Path) -> None:
    audio = ROOT / "sdhubert_ray/assets/demo/synth_0.flac"
    run = sdhubert("segment", audio, tmp_path / "out", "--checkpoint", "bundled", "--preset", "paper")
    assert (
        "checkpoint bundled brings its own encoder, speech, syllables, which go before those of 'paper'" in run.stderr
    )
    run = sdhubert("segment", audio, tmp_path / "readme", "--checkpoint", "bundled")
    assert "brings its own" not in run.stderr


# --- the other commands ------------------------------------------------------------------------------------------


def test_manifest_then_segment_then_status(folder: Path, golden: Path, tmp_path: Path) -> None:
    for number in range(1, 4):
        shutil.copy(golden / f"audio/synth_{number}.flac", folder)
    listed = sdhubert("manifest", folder, tmp_path / "m.parquet")
    assert "4 recordings in 4 rows" in listed.stdout
    sdhubert("segment", tmp_path / "m.parquet", tmp_path / "out", "--checkpoint", "bundled")
    told = sdhubert("status", tmp_path / "out")
    assert re.search(r"state +finished", told.stdout)
    assert re.search(r"done +100 % \(4 of 4 rows\)", told.stdout)
    assert re.search(r"recordings +4 \(4 ok\)", told.stdout)
    assert "time left" not in told.stdout
    found = json.loads(sdhubert("status", tmp_path / "out", "--json").stdout)
    assert (found["state"], found["rows_left"], found["statuses"]) == ("finished", 0, {"ok": 4})
    assert (found["percent_done"], found["seconds_to_go"]) == (100, None)
    assert found["num_syllables"] == sum(len(row["segments"]) for row in table(tmp_path / "out").values())


def test_log_of_json_lines(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.flac").write_bytes(b"no audio")
    command = ("segment", folder, tmp_path / "out", "--checkpoint", "bundled", "--log-format", "json")
    result = sdhubert(*command, "resources.unit_rows=1", expect=3)
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    events = [line for line in lines if "event" in line]
    assert [line["event"] for line in events] == ["started", "committed", "committed", "finished"]
    run_id = json.loads((tmp_path / "out" / "run.json").read_text())["run_id"]
    assert {line["run_id"] for line in events} == {run_id}
    assert sum(line.get("unreadable", 0) for line in events if line["event"] == "committed") == 1
    assert events[2]["rows"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status", "{missing}"], "holds no run; name the output folder"),
        (["resegment", "{missing}", "{out}"], "holds no run; name an output folder"),
        (["manifest", "{missing}", "{out}.parquet"], "does not exist; name a file, a folder, a glob or a manifest"),
        (["manifest", "{audio}", "{out}.csv"], "parquet"),
        (["segment", "{audio}", "{out}", "--where", "split"], "it has to be column=value"),
        (["segment", "{audio}", "{out}", "--split", "test-clen"], "test-clen"),
        (["segment", "{audio}", "{out}", "--retry", "ok"], "--retry is 'ok'; it has to be one of"),
        (["segment", "{audio}", "{out}", "--retry", "failed"], "has no run whose rows could be tried again"),
        (["segment", "{audio}", "{out}", "--log-format", "xml"], "it has to be text or json"),
        (["segment", "{audio}", "{out}", "resources.encode.max_worker=3"], "did you mean"),
        (["segment", "s3://no-such-bucket-of-anybody/x", "{out}"], "s3://no-such-bucket-of-anybody/x"),
        (["segment", "{audio}/shard-{{000..002}}.tar", "{out}"], "shard-000.tar"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("s3_bucket")
def test_other_mistakes(arguments: list[str], sentence: str, folder: Path, tmp_path: Path) -> None:
    names = {"missing": tmp_path / "nowhere", "audio": folder, "out": tmp_path / "out"}
    checkpoint = ["--checkpoint", "bundled"] if arguments[0] == "segment" else []
    result = sdhubert(*(argument.format(**names) for argument in arguments), *checkpoint, expect=2)
    assert sentence in complaint(result)
    assert not list(tmp_path.glob("out*"))
