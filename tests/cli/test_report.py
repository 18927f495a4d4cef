"""`sdhubert report`: what it says, and how mistakes are refused."""

import pytest
from commands import complaint, sdhubert
from evaluation_inputs import make_output, make_row, write_references


@pytest.fixture
def output(tmp_path):
    rows = [make_row("a.wav", [(0.1, 0.3)], uri="/nowhere/a.wav"), make_row("b.wav", status="missing", error="gone")]
    return make_output(tmp_path / "out", rows)


def test_a_report_is_made_though_no_audio_is_there(output, tmp_path):
    file = tmp_path / "report.html"
    done = sdhubert("report", output, "-o", file)
    assert f"the report is in {file}" in done.stdout
    assert "1 of 1 recordings here have no sound: for one, its audio is no longer where it was." in done.stdout
    assert file.read_text().startswith("<!doctype html>")


def test_a_file_that_is_there_is_kept_unless_told_otherwise(output, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("mine")
    assert "is there already" in complaint(sdhubert("report", output, "-o", file, expect=2))
    assert file.read_text() == "mine"
    sdhubert("report", output, "-o", file, "--overwrite")
    assert file.read_text() != "mine"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("report.pdf", "does not end with .html"), ("nothing/report.html", "there is no folder"), (".", "is a folder")],
)
def test_files_that_cannot_be(file, sentence, output, tmp_path):
    assert sentence in complaint(sdhubert("report", output, "-o", tmp_path / file, expect=2))


def test_mistakes_leave_no_file(output, tmp_path):
    file = tmp_path / "report.html"
    refs = write_references(tmp_path / "r.json", {"other.wav": [(0, 1, "x")]})
    for arguments, sentence in (
        ((tmp_path / "nothing",), "is not there"),
        ((tmp_path,), "holds no run"),
        ((output, "--by", "speaker"), "give --references"),
        ((output, "--references", tmp_path / "gone.json"), "is not there"),
        ((output, "--references", refs), "have no segments"),
        ((output, "--references", refs, "--rename", "x"), "it has to be OLD=NEW"),
    ):
        assert sentence in complaint(sdhubert("report", *arguments, "-o", file, expect=2))
        assert not file.exists()
