"""`segment_corpus` is the command: the same tables, the same resuming, the same refusals."""

import io
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import complaint, sdhubert

from sdhubert_ray import read_segments, segment_corpus
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_run
from sdhubert_ray.runs.config import JobConfig, load_config


@pytest.fixture
def audio(golden, tmp_path):
    """Two good recordings and one that is none."""
    (tmp_path / "audio").mkdir()
    for name in ("synth_0.flac", "synth_3.flac"):
        shutil.copy(golden / "audio" / name, tmp_path / "audio")
    (tmp_path / "audio" / "broken.wav").write_text("no audio\n")
    return tmp_path / "audio"


@pytest.fixture
def piped_in(monkeypatch):
    """Puts a text on standard input, which is no terminal."""

    def pipe(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return pipe


def table(output):
    return pa.concat_tables(pq.read_table(path) for path in sorted((output / "segments").glob("*.parquet")))


def test_it_gives_what_the_command_gives_and_goes_on_with_it(audio, tiny_checkpoint, tmp_path):
    options = {"syllables.syl_dur": 0.2, "resources": {"unit_rows": 1}}
    done = []
    summary = segment_corpus(
        audio,
        tmp_path / "python",
        options=options,
        checkpoint=tiny_checkpoint,
        formats=["csv"],
        engine="local",
        on_commit=lambda rows, seconds: done.append(rows),
    )
    words = ["--checkpoint", tiny_checkpoint, "syllables.syl_dur=0.2", "resources.unit_rows=1", "--engine", "local"]
    sdhubert("segment", audio, tmp_path / "command", *words, "--format", "csv", expect=3)
    assert table(tmp_path / "python").equals(table(tmp_path / "command"))
    assert (tmp_path / "python/syllables.csv").read_bytes() == (tmp_path / "command/syllables.csv").read_bytes()
    assert done == [1, 1, 1]
    assert (summary.rows_done, summary.engine, summary.output) == (3, "local", str(tmp_path / "python"))
    assert summary.totals.statuses == {"ok": 2, "unreadable": 1}
    assert summary.totals.num_failed == 1
    frame = read_segments(tmp_path / "python").to_pandas()
    assert len(frame) == summary.totals.num_syllables
    again = sdhubert("segment", audio, tmp_path / "python", *words, expect=3)
    assert "3 of 3 rows are done already and skipped" in again.stdout
    shutil.copy(audio / "synth_0.flac", audio / "new.flac")
    grown = segment_corpus(audio, tmp_path / "command", options=options, checkpoint=str(tiny_checkpoint))
    assert (grown.rows_done_before, grown.rows_done) == (3, 1)


def test_a_config_is_taken_as_it_is(audio, tiny_checkpoint, tmp_path):
    words = [f"checkpoint={tiny_checkpoint}", "syllables.merge_threshold=0.9", "max_failed=1"]
    config = load_config(None, words, {}, {})
    segment_corpus([audio / "synth_0.flac", audio / "synth_3.flac"], tmp_path / "out", config, engine="local")
    record = read_run(str(tmp_path / "out"))
    assert record["config"]["syllables"]["merge_threshold"] == 0.9
    assert record["input"] == f"{audio}/synth_0.flac, {audio}/synth_3.flac"
    assert sorted(recording.id.rpartition("/")[2] for recording in read_segments(tmp_path / "out")) == [
        "synth_0.flac",
        "synth_3.flac",
    ]
    with pytest.raises(UserError, match="dtype is given beside a JobConfig"):
        segment_corpus(audio, tmp_path / "other", config, dtype="float32")
    (tmp_path / "job.yaml").write_text(f"checkpoint: {tiny_checkpoint}\nsyllables: {{syl_dur: 0.3}}\n")
    segment_corpus(audio / "synth_0.flac", tmp_path / "yaml", tmp_path / "job.yaml", engine="local")
    assert read_run(str(tmp_path / "yaml"))["config"]["syllables"]["syl_dur"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"options": {"syllables.syl_duration": 1}}, "did you mean 'syllables.syl_dur'"),
        ({"formats": "csv"}, "formats is 'csv'; it has to be a list, such as ['csv']"),
        ({"formats": ["tsv"]}, "output.formats is 'tsv'; it has to be one of parquet, files, textgrid, csv"),
        ({"engine": "locally"}, "engine is 'locally'"),
        ({"limit": 0}, "limit is 0"),
        ({"retry": ["failed"], "limit": 3}, "--retry does rows of OUTPUT again"),
        ({"retry": ["failed"]}, "has no run whose rows could be tried again"),
        ({"checkpoint": "nowhere.pt"}, "checkpoint nowhere.pt does not exist"),
        ({"config": "nowhere.yaml"}, "config file nowhere.yaml does not exist"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(audio, tiny_checkpoint, tmp_path, arguments, sentence):
    with pytest.raises(UserError) as caught:
        segment_corpus(audio, tmp_path / "out", **{"checkpoint": tiny_checkpoint, **arguments})
    assert sentence in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_in_any_of_its_inputs_is_refused(audio, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(audio / "synth_0.flac", tmp_path / "other")
    with pytest.raises(UserError, match=r"output .*other/out is in the input .*other; choose"):
        segment_corpus([audio, tmp_path / "other"], tmp_path / "other" / "out", JobConfig(checkpoint="bundled"))


# -- the same from the command line


def test_several_inputs_on_the_command_line(audio, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(audio.parent)
    words = ["--checkpoint", tiny_checkpoint, "--engine", "local"]
    sdhubert("segment", "audio/synth_0.flac", "audio/synth_3.flac", "out", "syllables.syl_dur=0.2", *words)
    assert {recording.id for recording in read_segments("out")} == {"audio/synth_0.flac", "audio/synth_3.flac"}
    assert read_run("out")["config"]["syllables"]["syl_dur"] == 0.2
    found = sdhubert("manifest", "audio/synth_0.flac", "audio/synth_3.flac", "m.parquet")
    assert "2 recordings in 2 rows" in found.stdout
    said = complaint(sdhubert("manifest", "m2.parquet", expect=2))
    assert "m2.parquet alone is given; name what is to be listed" in said
    said = complaint(sdhubert("segment", "audio/synth_0.flac", "audio/synth_3.flac", *words, expect=2))
    assert "audio/synth_3.flac" in said
    assert "is a file" in said
    said = complaint(sdhubert("segment", "audio", "out2", "syllables.syl_dur", "0.2", *words, expect=2))
    assert "input out2 does not exist" in said
    assert "of several paths the last is where it is written to" in said


def test_a_forgotten_output_does_not_fill_the_last_input(audio, tiny_checkpoint, tmp_path):
    (tmp_path / "more" / "deep").mkdir(parents=True)
    shutil.copy(audio / "synth_0.flac", tmp_path / "more" / "deep")
    said = complaint(sdhubert("segment", audio, tmp_path / "more", audio, "--checkpoint", tiny_checkpoint, expect=2))
    assert f"output {audio} holds recordings, such as broken.wav, and no run" in said
    assert not (audio / "run.json").exists()
    said = complaint(sdhubert("segment", audio, audio, tmp_path / "more", "--checkpoint", tiny_checkpoint, expect=2))
    assert "such as deep/synth_0.flac" in said


def test_a_list_on_standard_input(audio, tiny_checkpoint, tmp_path, piped_in):
    names = [str(path) for path in sorted(audio.glob("*.flac"))]
    words = ["--checkpoint", tiny_checkpoint, "--engine", "local"]
    piped_in("\n".join(names) + "\n")
    sdhubert("segment", "-", tmp_path / "out", *words)
    assert [f"/{recording.id}" for recording in read_segments(tmp_path / "out")] == names
    assert read_run(str(tmp_path / "out"))["input"] == "standard input"
    piped_in("\0".join(names))
    assert "2 recordings" in sdhubert("manifest", "-", tmp_path / "m.parquet").stdout
    piped_in("")
    assert "standard input is empty" in complaint(sdhubert("segment", "-", tmp_path / "other", *words, expect=2))
