"""Tables for people, and whose figures may stand beside ours."""

import io
import re

import pytest
from evaluation_inputs import random_utterances, utterance
from rich.console import Console

from sdhubert_ray.evaluation import Joined, evaluate_boundary, evaluate_purity
from sdhubert_ray.evaluation.published import BOUNDARY, PURITY, is_librispeech_test
from sdhubert_ray.evaluation.scoring import Bootstrap, Shift, measure_rate
from sdhubert_ray.evaluation.tables import (
    boundary_groups,
    boundary_table,
    describe_join,
    published_table,
    purity_groups,
    purity_table,
    rate_table,
    syllable_table,
)


def shown(*tables, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def line(text, beginning):
    return next(one for one in text.splitlines() if one.strip().startswith(beginning))


@pytest.fixture
def joined():
    return Joined(tuple(random_utterances(0, 30)), by=("speaker",))


def test_all_protocols_side_by_side_in_eighty_columns(joined):
    report = evaluate_boundary(joined, 0.015, Bootstrap(50))
    shifts = Shift(0.015, "tuned", "val.json", 12, 0.8), Shift(-0.005, "given")
    text = shown(boundary_table(report, *shifts), syllable_table(report), *boundary_groups(report))
    found = report.protocols["sdhubert"]
    assert f"{100 * found.f1.value:.1f} ({100 * found.f1.low:.1f} to {100 * found.f1.high:.1f})" in line(text, "F1 %")
    assert re.split(" {2,}", line(text, "shift").strip())[1:] == ["+15 ms (tuned on 12)", "none", "-5 ms (GIVEN)"]
    assert line(text, "reference").split()[-3:] == [str(one.reference) for one in report.protocols.values()]
    assert f"{100 * report.by['speaker']['g1']['sdhubert'].r_value.value:.1f}" in line(text, "g1")
    assert "by speaker, onsets_offsets" in text
    assert "…" not in text
    tokens = report.syllables["zerosyl_tokens"]
    below = text[text.index("zerosyl tokens") :]
    assert f"{100 * tokens.f1.value:.1f} ({100 * tokens.f1.low:.1f} to" in line(below, "F1 %")
    assert "by speaker, findsylls spans" in text
    text = shown(boundary_table(report, Shift(), Shift()))
    assert "+0 ms (NOT TUNED)" in text


def test_purity_in_eighty_columns(joined):
    report = evaluate_purity(joined, Bootstrap(50))
    text = shown(purity_table(report), *purity_groups(report), rate_table(measure_rate(joined, Bootstrap(50), 4096)))
    assert f"{100 * report.protocols['strict'].cluster_purity.value:.1f} (" in line(text, "cluster purity %")
    assert f"{100 * report.by['speaker']['g2']['sdhubert'].syllable_purity.value:.1f}" in line(text, "g2")
    assert "at log2 of 4096 units" in text
    assert " Hz (" in text
    assert "…" not in text


def test_figures_that_do_not_exist_are_dashes():
    nothing = Joined((utterance([(0, 1)], "A", [], duration=0.0),))
    text = shown(
        boundary_table(evaluate_boundary(nothing, 0.0, Bootstrap()), Shift(), Shift()),
        rate_table(measure_rate(nothing, Bootstrap())),
    )
    assert line(text, "R-value").split()[-3:] == ["-"] * 3
    assert line(text, "F1").split()[-3:] == ["0.0"] * 3


def test_what_did_not_join_is_told():
    one = utterance([(0, 1)], "A", [(0, 1)])
    joined = Joined((one,), (), tuple("abcde"), {"a.wav": "failed"}, 12, ("x.wav", "y.wav"))
    lines = list(describe_join(joined, "skip"))
    assert lines == [
        "1 utterances evaluated",
        "5 referenced recordings missing, 1 of them in the table but not readable, left out: a, b, c and 2 more",
        "12 recordings of the table have no reference, such as x.wav",
    ]
    assert "counted as without segments" in list(describe_join(joined, "empty"))[1]
    assert list(describe_join(Joined((one,)), "error")) == ["1 utterances evaluated"]


def test_published_figures_have_their_sources():
    text = shown(published_table(BOUNDARY), published_table(PURITY), width=120)
    for system, figures in (("SD-HuBERT", "64.3 71.0 67.5 70.7"), ("Sylber", "76.6 68.3 72.2 75.9")):
        assert line(text, system).split()[1:5] == figures.split()
    assert line(text, "SylBoost").split()[1:5] == ["64.1", "88.7", "74.4", "62.4"]
    assert "54.1" in line(text, "SD-HuBERT, 4096 units")
    assert all("arXiv" in one.source for one in (*BOUNDARY, *PURITY))


def test_what_counts_as_a_test_set_of_librispeech():
    names = [f"test-{('clean', 'other')[n % 2]}/{n}/{n + 1}/{n}-{n + 1}-{n:04d}.flac" for n in range(2000)]
    assert is_librispeech_test(names)
    assert is_librispeech_test(f"LibriSpeech/{name}" for name in names)
    assert not is_librispeech_test(names[1:])
    for other in ("dev-clean/1/2/1-2-0000.flac", "test-clean/1/2/1-3-0000.flac", "test/000.flac", "1-2-0000.flac"):
        assert not is_librispeech_test([*names, other])
    assert not is_librispeech_test([])
