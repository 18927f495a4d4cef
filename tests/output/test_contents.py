"""What an output holds: whose it is, what of it is refused, and what overwriting removes."""

import itertools
import shutil
from pathlib import Path

import pytest
from outputs import keys_in, make_row, make_run, refusal

from sdhubert_ray import storage
from sdhubert_ray.output import (
    clear_output,
    open_output,
    read_contents,
    read_run,
    read_segments,
    require_contents,
)

# -- whose output it is


def test_a_new_output_is_open(tmp_path):
    wanted = {"a": "1"}
    assert open_output(str(tmp_path / "new"), wanted, False) is None
    assert open_output(str(tmp_path), wanted, False) is None
    assert not (tmp_path / "new").exists()


def test_an_output_of_the_same_configuration_is_resumed(tmp_path):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), fingerprint_values={"a": "1", "b": "2"})
    contents = open_output(output, {"b": "2", "a": "1"}, False)
    assert (contents.record["fingerprint"], contents.pending) == ({"a": "1", "b": "2"}, [])
    assert keys_in(output) == {"a#0"}


def test_an_output_of_another_configuration_is_refused_naming_the_keys(tmp_path):
    before = {"speech.normcut_threshold": "0.1", "dtype": '"float32"', "gone": "7"}
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), fingerprint_values=before)
    now = {"speech.normcut_threshold": "0.2", "dtype": '"float32"', "fresh": "8"}
    message = refusal(open_output, output, now, False)
    for part in (output, "speech.normcut_threshold", "0.1", "0.2", "gone", "7", "fresh", "8", "--overwrite"):
        assert part in message
    assert "dtype" not in message
    assert keys_in(output) == {"a#0"}


def test_overwriting_removes_what_the_earlier_run_left_and_nothing_else(tmp_path):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), (2, [make_row("b#0")]))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert open_output(output, {"seed": "2"}, True) is not None
    assert keys_in(output) == {"a#0", "b#0"}  # to look is not to touch
    clear_output(output)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"notes.txt", "run.json"}
    assert require_contents(output).is_half_removed  # until another run has written its own record
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    clear_output(output)  # nothing there is nothing to do


@pytest.mark.parametrize("content", [None, "damaged"])
def test_what_no_record_tells_of_is_not_removed(tmp_path, content):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]))
    if content is None:
        (tmp_path / "out" / "run.json").unlink()
    else:
        (tmp_path / "out" / "run.json").write_text(content)
    for overwrite in (False, True):
        message = refusal(open_output, output, {}, overwrite)
        assert "choose another output" in message
        assert "--overwrite" not in message
    assert keys_in(output) == {"a#0"}


@pytest.mark.parametrize("name", ["segments/part-0.parquet", "segments/notes.txt", "commits/a.wav", "manifest/a"])
def test_foreign_places_are_refused_and_left_alone(tmp_path, name):
    foreign = tmp_path / "foreign" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    for overwrite in (False, True):
        message = refusal(open_output, str(tmp_path / "foreign"), {}, overwrite)
        assert name in message
        assert "--overwrite" not in message
    assert foreign.read_text() == "mine"


def test_a_file_is_no_output(tmp_path):
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        assert "file is a file" in refusal(open_output, str(tmp_path / "file"), {}, overwrite)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["segments/part-0.parquet", "segments/00002-0123456789ab-0000000-0000000.parquet"])
def test_a_parquet_file_that_no_plan_knows_may_not_lie_in_the_table(tmp_path, name):
    """Whoever reads the folder would take its rows for ours."""
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]))
    (tmp_path / "out" / "segments").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for overwrite in (False, True):
        assert name in refusal(open_output, output, {"seed": "1"}, overwrite)


def test_a_plan_that_is_gone_is_named(tmp_path):
    output = make_run(tmp_path / "out", (1, [make_row("a#0")]), (2, [make_row("b#0")]))
    manifest = tmp_path / "out" / "manifest"
    for missing in ("00002.json", "00001.json", "00001-0123456789ab-00000.parquet"):
        (manifest / missing).rename(tmp_path / missing)
        for call in (read_contents, require_contents, lambda name: list(read_segments(name))):
            assert f"manifest/{missing} is missing" in refusal(call, output)
        for overwrite in (False, True):
            assert f"manifest/{missing} is missing" in refusal(open_output, output, {"seed": "1"}, overwrite)
        (tmp_path / missing).rename(manifest / missing)
    assert {result.id for result in read_segments(output)} == {"a", "b"}


def test_an_overwrite_that_was_cut_short_is_gone_on_with(tmp_path, monkeypatch):
    """Killed at any of its steps: a run that is asked to overwrite can, another is told so."""

    class KilledError(BaseException):
        pass

    foreign = tmp_path / "out" / "segments" / "notes.txt"
    for steps in range(20):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        output = make_run(tmp_path / "out", (1, [make_row("a#0")]), (2, [make_row("b#0")]))
        foreign.parent.mkdir()
        foreign.write_text("mine")
        left = itertools.count(-steps)

        def removed(uris, left=left):
            for uri in uris:
                if next(left) == 0:
                    raise KilledError
                Path(uri).unlink(missing_ok=True)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove_files", removed)
            try:
                clear_output(output)
            except KilledError:
                assert "half removed" in refusal(open_output, output, {"seed": "1"}, False)
            else:
                break
        assert open_output(output, {"seed": "1"}, True) is not None
        clear_output(output)
        left = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert left == {foreign, tmp_path / "out" / "run.json"}
    else:
        raise AssertionError("it never ended")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"fingerprint": {}}',
        '{"fingerprint": [], "runs": 1}',
        '{"fingerprint": {}, "runs": "x"}',
        "\xff",
    ],
)
def test_a_damaged_run_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    for call in (lambda: read_run(str(tmp_path)), lambda: open_output(str(tmp_path), {}, False)):
        assert f"{tmp_path}/run.json" in refusal(call)


def test_a_folder_in_place_of_the_run_record_is_refused(tmp_path):
    (tmp_path / "run.json").mkdir()
    assert "run.json" in refusal(open_output, str(tmp_path), {}, False)
