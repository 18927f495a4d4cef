"""`sdhubert evaluate boundary|purity` as a user meets it: golden values, and one sentence per mistake."""

import json
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import sdhubert
from evaluation_inputs import EVALUATION, golden_rows, make_output, make_row, write_references

from sdhubert_ray import storage

TEST, VAL = str(EVALUATION / "syllables_test.json"), str(EVALUATION / "syllables_val.json")
SCORES = {"prec": "precision", "recall": "recall", "f1": "f1", "os": "over_segmentation", "r_val": "r_value"}


def evaluate(*arguments, expect=0):
    return sdhubert("evaluate", *arguments, expect=expect)


def complaint(*arguments):
    return commands.complaint(evaluate(*arguments, expect=2))


@pytest.fixture(scope="module")
def expected():
    return json.loads((EVALUATION / "expected.json").read_text())


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Validation and test recordings of the golden data, in one table of three files, with units."""
    rows = [*golden_rows("test"), *golden_rows("val")]
    return make_output(
        tmp_path_factory.mktemp("golden") / "out", rows[::3], rows[1::3], rows[2::3], carried=["speaker"]
    )


def test_golden_boundaries_and_shift(output, expected, tmp_path):
    result = evaluate("boundary", output, TEST, "--tune", VAL, "--json", tmp_path / "r.json", "--by", "speaker")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["shift"]["source"] == "tuned"
    assert found["shift"]["seconds"] == pytest.approx(expected["best_shift"], abs=1e-9)
    protocol = found["protocols"]["sdhubert"]
    wanted = expected["boundary"]
    assert (protocol["matched"], protocol["reference"], protocol["predicted"]) == (
        wanted["match_gt"],
        wanted["gt_len"],
        wanted["pred_len"],
    )
    for name, ours in {**SCORES, "r1": "r1", "r2": "r2"}.items():
        figure = protocol[ours]
        assert figure["value"] == pytest.approx(wanted[name], abs=1e-9)
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert found["zerosyl_shift"]["source"] == "tuned"
    assert found["zerosyl_shift"]["tuned_on"] == found["shift"]["tuned_on"] == VAL
    assert "findsylls_nuclei" not in found["syllables"]
    assert "findsylls nuclei" not in result.stdout
    for name in ("zerosyl_tokens", "findsylls_spans"):
        assert found["syllables"][name]["f1"]["low"] < found["syllables"][name]["f1"]["high"]
        parts = [group[name]["matched"] for group in found["syllables_by"]["speaker"].values()]
        assert sum(parts) == found["syllables"][name]["matched"] > 0
        assert name.replace("_", " ") in result.stdout
    groups = found["by"]["speaker"]
    assert sorted(groups) == ["s0", "s1", "s2"]
    for name in ("matched", "reference", "predicted", "utterances"):
        assert sum(group["sdhubert"][name] for group in groups.values()) == protocol[name]
    assert found["utterances"] == protocol["utterances"] == 25
    assert found["missing"]["count"] == 0
    assert found["extra"]["count"] == len(golden_rows("val"))
    assert "recordings of the table have no reference, such as val/" in result.stdout
    assert "75.8" in result.stdout
    assert "by speaker" in result.stdout
    assert "NOT TUNED" not in result.stdout + result.stderr
    assert "SylBoost" not in result.stdout
    assert found["published"] == []


def test_golden_purity_of_units_in_the_table(output, expected, tmp_path):
    result = evaluate("purity", output, TEST, "--json", tmp_path / "r.json", "--by", "speaker")
    found = json.loads((tmp_path / "r.json").read_text())
    protocol, strict = found["protocols"]["sdhubert"], found["protocols"]["strict"]
    assert protocol["pairs"] == expected["matched"]
    for name in ("cluster_purity", "syllable_purity"):
        assert protocol[name]["value"] == pytest.approx(expected[name], abs=1e-9)
        assert protocol[name]["low"] < protocol[name]["high"]
    assert strict["pairs"] < protocol["pairs"]
    assert strict["pairs"] + strict["unmatched_segments"] == protocol["pairs"] + protocol["unmatched_segments"]
    assert sum(group["strict"]["pairs"] for group in found["by"]["speaker"].values()) == strict["pairs"]
    rate = found["token_rate"]
    assert rate["hertz"] == pytest.approx(rate["segments"] / 250)
    assert 0 < rate["entropy_bits_per_second"] <= rate["bits_per_second"]
    assert rate["entropy_interval"][0] < rate["entropy_bits_per_second"] < rate["entropy_interval"][1]
    assert rate["hertz_interval"][0] < rate["hertz"] < rate["hertz_interval"][1]
    assert found["protocols"]["zerosyl"]["pairs"] == rate["segments"]
    for one in found["protocols"].values():
        assert 0 < one["snmi"]["low"] < one["snmi"]["value"] < one["snmi"]["high"] < 1
    assert "94.5" in result.stdout
    assert "strict" in result.stdout


def test_golden_purity_with_a_quantizer(expected, tmp_path):
    from sdhubert_ray.units import Quantizer

    with np.load(EVALUATION / "quantizer.npz") as file:
        quantizer = Quantizer(file["centers"].astype(np.float32), file["reducer"].astype(np.int32), {})
    quantizer.save(str(tmp_path / "quantizer"))
    output = make_output(tmp_path / "out", golden_rows("test", with_units=False))
    assert "sdhubert tokenize" in complaint("purity", output, TEST)
    evaluate("purity", output, TEST, "--quantizer", tmp_path / "quantizer", "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    for name in ("cluster_purity", "syllable_purity"):
        assert found["protocols"]["sdhubert"][name]["value"] == pytest.approx(expected[name], abs=1e-9)
    assert found["token_rate"]["num_units"] == quantizer.num_units
    assert found["quantizer_sha256"] == quantizer.sha256


def test_the_same_seed_gives_the_same_intervals(output, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        evaluate("boundary", output, TEST, "--seed", seed, "--bootstrap", 200, "--json", tmp_path / name)
    found = {name: json.loads((tmp_path / name).read_text())["protocols"] for name in "abc"}
    assert found["a"] == found["b"] != found["c"]


def test_without_tuning_it_says_so(output, tmp_path):
    result = evaluate("boundary", output, TEST, "--bootstrap", 0, "--json", tmp_path / "r.json")
    assert "NOT TUNED" in result.stdout
    assert "NOT TUNED" in result.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["shift"] == {"seconds": 0.0, "source": "not tuned", "tuned_on": None, "utterances": 0, "r_value": None}
    assert found["protocols"]["sdhubert"]["f1"]["low"] is None
    assert found["zerosyl_shift"] == found["shift"]
    given = evaluate("boundary", output, TEST, "--bootstrap", 0, "--shift", 0.015)
    assert given.stdout.count("+15 ms (GIVEN)") == 2
    assert "NOT TUNED" not in given.stderr


def test_a_tolerance_takes_the_pairs_that_lie_on_its_edge(tmp_path):
    """Of times that are written 50 ms apart, the difference in float64 may be a little less or more."""
    pairs = [(0.3, 0.35), (0.1, 0.15), (1.05, 1.1), (2.05, 2.1)]
    on_edge = sum(abs(one - other) <= 0.05 for one, other in pairs)
    assert 0 < on_edge < len(pairs)
    output = make_output(tmp_path / "out", [make_row("a.wav", [(one, 9.0) for one, _ in pairs])])
    references = write_references(tmp_path / "r.json", {"a.wav": [(other, 5.0, "A") for _, other in pairs]})
    matched = {}
    for tolerance in ("0.05", "0.050001", "0.02"):
        evaluate("boundary", output, references, "--tolerance", tolerance, "--json", tmp_path / tolerance)
        found = json.loads((tmp_path / tolerance).read_text())
        assert found["tolerance"] == float(tolerance)
        matched[tolerance] = [found["protocols"][name]["matched"] for name in ("sdhubert", "onsets_offsets")]
    assert matched == {"0.05": [on_edge, 0], "0.050001": [4, 4], "0.02": [0, 0]}


def test_nuclei_are_counted_of_textgrids_with_phones(tmp_path):
    output = make_output(tmp_path / "out", [make_row("a.wav", [(0.0, 0.3), (0.3, 0.9)])])
    folder = tmp_path / "grids"
    folder.mkdir()
    times = ['0 0.1 "S"', '0.1 0.3 "AY1"', '0.3 0.5 "Z"', '0.5 0.9 "IH0"', '0.9 1 ""']
    head = '"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "phones" 0 1'
    (folder / "a.TextGrid").write_text(f"{head} {len(times)} {' '.join(times)}")
    result = evaluate("boundary", output, folder, "--json", tmp_path / "r.json")
    # Middles are at 0.15 and 0.6, one in each vowel.
    found = json.loads((tmp_path / "r.json").read_text())["syllables"]["findsylls_nuclei"]
    assert (found["matched"], found["reference"], found["predicted"], found["f1"]["value"]) == (2, 2, 2, 1)
    assert "findsylls nuclei" in result.stdout


def test_names_of_another_folder_are_mapped(output, tmp_path):
    references = json.loads(Path(TEST).read_text())
    for entry in references.values():
        entry["file_name"] = f"corpus/{entry['file_name']}"
    moved = {f"corpus {name}": entry for name, entry in references.items()}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(moved))
    assert "; they are with --rename corpus/=" in complaint("boundary", output, path)
    with_map = evaluate("boundary", output, path, "--rename", "corpus/=", "--bootstrap", 0).stdout
    assert with_map == evaluate("boundary", output, TEST, "--bootstrap", 0).stdout
    evaluate("purity", output, path, "--rename", "corpus/=", "--bootstrap", 0)


def test_missing_recordings_are_an_error_or_counted(tmp_path):
    rows = golden_rows("test")
    rows[0] = make_row("test/000.flac", status="unreadable", error="is no audio")
    output = make_output(tmp_path / "out", rows[:-2])
    said = complaint("boundary", output, TEST)
    assert "3 of 25 referenced recordings have no segments" in said
    assert "unreadable" in said
    assert "--missing skip" in said
    counts = {}
    for missing, kept in (("skip", 22), ("empty", 25)):
        result = evaluate("boundary", output, TEST, "--missing", missing, "--json", tmp_path / missing)
        assert "3 referenced recordings missing, 1 of them in the table but not readable" in result.stdout
        found = json.loads((tmp_path / missing).read_text())
        assert found["utterances"] == kept
        assert found["missing"]["count"] == 3
        assert found["failed"] == {"test/000.flac": "unreadable"}
        counts[missing] = found["protocols"]["sdhubert"]
    assert counts["skip"]["matched"] == counts["empty"]["matched"]
    assert counts["skip"]["predicted"] == counts["empty"]["predicted"]
    assert counts["skip"]["reference"] < counts["empty"]["reference"] == 448


def test_published_figures_are_shown_for_the_test_sets_of_librispeech_only(tmp_path):
    names = [f"test-clean/{n // 50}/7/{n // 50}-7-{n % 50:04d}.flac" for n in range(2000)]
    output = make_output(tmp_path / "out", [make_row(name, [(0.1, 0.3)], units=np.array([3])) for name in names])
    references = write_references(tmp_path / "r.json", {name: [(0.1, 0.3, "AH0")] for name in names})
    result = evaluate("boundary", output, references)
    assert "published for LibriSpeech test" in result.stdout
    for text in ("SylBoost", "76.6", "arXiv 2310.10803", "62.4"):
        assert text in result.stdout
    assert "46.2" in evaluate("purity", output, references, "--json", tmp_path / "p.json").stdout
    assert len(json.loads((tmp_path / "p.json").read_text())["published"]) == 1
    fewer = write_references(tmp_path / "fewer.json", {name: [(0.1, 0.3, "AH0")] for name in names[:1999]})
    assert "published" not in evaluate("boundary", output, fewer).stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["boundary", "OUTPUT", TEST, "--tune", TEST], "has to be chosen on other recordings"),
        (["boundary", "OUTPUT", TEST, "--tune", VAL, "--shift", "0"], "--shift and --tune"),
        (["boundary", "OUTPUT", TEST, "--tune-segments", "x"], "--tune-segments needs --tune"),
        (["boundary", "OUTPUT", TEST, "--tolerance", "50"], "--tolerance is 50.0; it has to be in seconds"),
        (["boundary", "OUTPUT", TEST, "--rename", "x"], "--rename is 'x'; it has to be OLD=NEW"),
        (["boundary", "OUTPUT", TEST, "--missing", "no"], "--missing is 'no'"),
        (["boundary", "OUTPUT", TEST, "--by", "speakr"], "did you mean its column 'speaker'"),
        (["boundary", "OUTPUT", TEST, "--tier", "phones"], "is no TextGrid"),
        (["boundary", "OUTPUT", "nowhere.json"], "nowhere.json is not there"),
        (["boundary", "nowhere", TEST], "nowhere holds no run"),
        (["purity", "OUTPUT", TEST, "--quantizer", "nowhere"], "nowhere"),
    ],
)
def test_refused(arguments, sentence, output):
    assert sentence in complaint(*(output if argument == "OUTPUT" else argument for argument in arguments))


def test_names_that_do_not_meet_are_shown(output, tmp_path):
    references = write_references(tmp_path / "r.json", {"other/000.flac": [(0, 1, "A")]})
    said = complaint("boundary", output, references, "--missing", "skip")
    for part in ("other/000.flac", "test/000.flac", "have to be the same"):
        assert part in said


def test_all_of_it_in_an_object_store(output, expected, s3_bucket):
    for path in Path(output).rglob("*"):
        if path.is_file():
            storage.put(f"{s3_bucket}/out/{path.relative_to(output).as_posix()}", path.read_bytes())
    storage.put(f"{s3_bucket}/test.json", Path(TEST).read_bytes())
    evaluate("purity", f"{s3_bucket}/out", f"{s3_bucket}/test.json", "--json", f"{s3_bucket}/result.json")
    found = json.loads(storage.read_bytes(f"{s3_bucket}/result.json"))
    assert found["protocols"]["sdhubert"]["cluster_purity"]["value"] == pytest.approx(expected["cluster_purity"])


def test_help_comes_without_torch_ray_or_scipy():
    code = (
        "import sys, sdhubert_ray.cli as cli\n"
        "try: cli.app(['evaluate', 'boundary', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for option in ("--tune", "--missing", "--by", "--json", "--bootstrap"):
        assert option in result.stdout


def test_evaluating_needs_neither_torch_nor_ray(output):
    code = (
        "import sys, sdhubert_ray.cli as cli\n"
        f"try: cli.app(['evaluate', 'boundary', {output!r}, {TEST!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_real_speech_references_join_a_table_of_paths(real_speech, tmp_path):
    references = json.loads((real_speech / "syllables_timit_test.json").read_text())
    manifest = [json.loads(line) for line in (real_speech / "manifest.jsonl").read_text().splitlines()]
    rows = []
    for row in manifest:
        syllables = references.get(row["id"], {"syllables": []})["syllables"]
        segments = [(float(one["start"]), float(one["end"])) for one in syllables]
        rows.append(make_row(row["uri"], segments, duration=row["duration"], speaker=str(row["speaker"])))
    output = make_output(tmp_path / "out", rows, carried=["speaker"])
    target = tmp_path / "r.json"
    evaluate("boundary", output, real_speech / "syllables_timit_test.json", "--json", target, "--by", "speaker")
    found = json.loads(target.read_text())
    assert found["utterances"] == len(references) == 40
    assert found["extra"]["count"] == len(rows) - 40
    # References as predictions are found exactly.
    assert found["protocols"]["onsets_offsets"]["f1"]["value"] == 1
    assert found["protocols"]["sdhubert"]["precision"]["value"] == 1
