import json
import shutil

import pytest
from commands import complaint, sdhubert

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.librispeech import BenchmarkOptions, list_commands, list_parts, write_lists

TRAIN = [f"train-clean-100/19/198/19-198-000{number}.flac" for number in range(3)]
VALIDATION = "dev-clean/84/121123/84-121123-0000.flac"
TEST = [f"test-clean/61/70968/61-70968-000{number}.flac" for number in range(2)]


@pytest.fixture
def corpus(tmp_path, golden):
    """A LibriSpeech of synthetic speech, with reference syllables for one validation and two test recordings."""
    root = tmp_path / "LibriSpeech"
    syllables = json.loads((golden / "audio" / "syllables.json").read_text())
    by_file = {entry["file_name"].rpartition("/")[2]: entry["syllables"] for entry in syllables.values()}
    sources = dict(zip([*TRAIN, VALIDATION, *TEST], [1, 2, 3, 1, 2, 4], strict=True))
    for path, number in sources.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(golden / "audio" / f"synth_{number}.flac", root / path)
    for name, paths in (("validation", [VALIDATION]), ("test", TEST)):
        entries = {
            path.rpartition("/")[2].removesuffix(".flac"): {
                "file_name": path,
                "syllables": by_file[f"synth_{sources[path]}.flac"],
            }
            for path in paths
        }
        (root / f"syllables_{name}.json").write_text(json.dumps(entries))
    return root


def make_options(root, **changes):
    values = {
        "root": str(root),
        "output": str(root / "segments" / "tiny"),
        "checkpoint": "bundled",
        "preset": "paper",
        "overrides": (),
        "validation_syllables": str(root / "syllables_validation.json"),
        "test_syllables": str(root / "syllables_test.json"),
        "train": "train-clean-100",
        "validation": None,
        "test": None,
        "triplets": None,
        "n_clusters": 8,
        "n_units": 4,
        "engine": "local",
        "address": None,
    }
    return BenchmarkOptions(**{**values, **changes})


def test_lists_are_plain_relative_paths(corpus):
    options = make_options(corpus)
    write_lists(options, list_parts(options))
    lists = corpus / "segments" / "tiny" / "lists"
    assert (lists / "train.txt").read_text().splitlines() == TRAIN
    assert (lists / "validation.txt").read_text().splitlines() == [VALIDATION]
    assert (lists / "test.txt").read_text().splitlines() == TEST
    rows = [json.loads(line) for line in (lists / "test.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": TEST[0], "uri": str(corpus / TEST[0]), "split": "test", "speaker": "61"}


def test_a_list_of_ones_own_is_taken_as_it_is(corpus, tmp_path):
    (tmp_path / "subset.txt").write_text(f"{TRAIN[2]}\n\n{TRAIN[0]}\n")
    options = make_options(corpus, train=str(tmp_path / "subset.txt"))
    write_lists(options, list_parts(options))
    assert (corpus / "segments/tiny/lists/train.txt").read_text().splitlines() == [TRAIN[2], TRAIN[0]]


def test_a_list_of_somebody_else_is_not_written_over(corpus):
    options = make_options(corpus)
    foreign = corpus / "segments/tiny/lists/train.jsonl"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(UserError, match=r"train\.jsonl is of no benchmark that is known; choose another --output"):
        list_parts(options)
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (f"{TRAIN[0]}\n{TRAIN[0]}\n", "more than once"),
        (f"{TRAIN[0]}\n{TEST[0]}\n", "is in the train part and in the test part"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(corpus, tmp_path, content, reason):
    (tmp_path / "subset.txt").write_text(content)
    with pytest.raises(UserError, match=reason):
        list_parts(make_options(corpus, train=str(tmp_path / "subset.txt")))
    assert not (corpus / "segments").exists()


def test_what_is_neither_split_nor_list_is_refused(corpus):
    with pytest.raises(UserError, match="train-clean-360"):
        list_parts(make_options(corpus, train="train-clean-360"))


def test_the_shift_is_tuned_on_validation_and_reported_on_test(corpus):
    commands = list_commands(make_options(corpus, triplets="ssabx.json"))
    assert [command[0] for command in commands] == ["segment", "cluster", "segment", "segment"] + ["evaluate"] * 3
    assert commands[1][1].endswith("/train")
    boundary = commands[4]
    assert boundary[2].endswith("/test")
    assert boundary[boundary.index("--tune-segments") + 1].endswith("/validation")


def benchmark(*arguments, expect=0):
    return sdhubert("benchmark", "librispeech", *arguments, expect=expect)


def test_one_command_from_corpus_to_table_and_again(corpus, tiny_checkpoint):
    output = corpus / "segments" / "tiny"
    clips = {
        name: {"file_name": path, "segment": [0.1, 1.1], "text": ""}
        for name, path in zip("XPN", [*TRAIN[:2], TEST[1]], strict=True)
    }
    (corpus / "ssabx.json").write_text(json.dumps({"0": clips}))
    arguments = [corpus, "--checkpoint", tiny_checkpoint, "--engine", "local", "--triplets", corpus / "ssabx.json"]
    arguments += ["--n-clusters", "8", "--n-units", "4", "speech.normcut_threshold=5.0"]
    printed = benchmark(*arguments).stdout
    commands = [line.split()[2] for line in printed.splitlines() if line.startswith("$ ")]
    assert commands == ["segment", "cluster", "segment", "segment"] + ["evaluate"] * 3
    results = {name: json.loads((output / f"{name}.json").read_text()) for name in ("boundary", "purity", "ssabx")}
    assert results["boundary"]["utterances"] == results["purity"]["utterances"] == 2
    assert results["boundary"]["shift"]["source"] == "tuned"
    assert results["ssabx"]["num_triplets"] == 1

    made = [*(output / "quantizer").iterdir(), *(output / "test" / "segments").iterdir()]
    written = {path: path.stat().st_mtime_ns for path in made}
    benchmark(*arguments)
    assert {path: path.stat().st_mtime_ns for path in made} == written
    assert json.loads((output / "boundary.json").read_text()) == results["boundary"]


def test_a_recording_that_cannot_be_read_ends_it_unless_it_is_allowed(corpus, tiny_checkpoint):
    (corpus / TRAIN[1]).write_bytes(b"no audio")
    arguments = [corpus, "--checkpoint", tiny_checkpoint, "--engine", "local", "--n-clusters", "8", "--n-units", "4"]
    arguments.append("speech.normcut_threshold=5.0")
    assert "max_failed=N" in complaint(benchmark(*arguments, expect=2))
    assert not (corpus / "segments" / "tiny" / "quantizer").exists()
    benchmark(*arguments, "max_failed=1")


def test_what_is_not_there_is_one_sentence(corpus, tmp_path):
    (corpus / "syllables_test.json").unlink()
    assert "syllables_test.json" in complaint(benchmark(corpus, "--checkpoint", "bundled", expect=2))
    assert not (corpus / "segments").exists()
    nothing = benchmark(tmp_path / "nothing", "--checkpoint", "bundled", expect=2)
    assert "train-clean-100" in complaint(nothing)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--n-clusters", "4", "--n-units", "8"], "n-units"),
        (["--triplets", "nothing.json"], "nothing.json"),
        (["syllables.sly_dur=0.2"], "syllables.syl_dur"),
        (["--checkpoint", "nothing.pt"], "nothing.pt"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(corpus, arguments, reason):
    given = ["--checkpoint", "bundled"] if "--checkpoint" not in arguments else []
    assert reason in complaint(benchmark(corpus, *given, *arguments, expect=2))
    assert not (corpus / "segments").exists()


def test_other_recordings_than_those_of_the_results_are_refused(corpus, tmp_path):
    options = make_options(corpus)
    write_lists(options, list_parts(options))
    (tmp_path / "subset.txt").write_text(f"{TRAIN[0]}\n")
    with pytest.raises(UserError, match="lists other recordings"):
        list_parts(make_options(corpus, train=str(tmp_path / "subset.txt")))
