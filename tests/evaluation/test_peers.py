"""Protocol `zerosyl` and the counts of findsylls against those packages themselves, on recordings made at random.

Only the modules that count are loaded, by their files, so that the packages are wanted without what they need to
segment:

    pip install --no-deps --target PEERS findsylls zerosyl tgt
    PYTHONPATH=PEERS python -m pytest tests/evaluation/test_peers.py
"""

import importlib
import importlib.util
import re
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from sdhubert_ray.evaluation import Joined, evaluate_boundary, evaluate_purity, load_references
from sdhubert_ray.evaluation.joining import Utterance
from sdhubert_ray.evaluation.scoring import Bootstrap, measure_rate
from sdhubert_ray.evaluation.syllabify import Phone, is_silence, vowels
from sdhubert_ray.metrics import count_nuclei, count_spans

NO_INTERVALS = Bootstrap(0)
WANTED = "is not here: pip install --no-deps --target PEERS findsylls zerosyl tgt, and PYTHONPATH=PEERS"
RECORDINGS = 40


def load(name):
    """A module of a package by its file, without what the package itself imports."""
    package, *inner = name.split(".")
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} {WANTED}")
    place = Path(found.submodule_search_locations[0]).joinpath(*inner).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Segments of frames with units as ZeroSyl writes them, TextGrids, and the same as ours, read from these."""
    tgt = pytest.importorskip("tgt", reason=f"tgt {WANTED}")
    folder = tmp_path_factory.mktemp("peers")
    random = np.random.default_rng(0)
    made = {}
    for number in range(RECORDINGS):
        name = f"{number:03d}"
        # Syllables of 50 to 400 ms on a grid of 10 ms, a silence before every third.
        lengths = random.integers(5, 40, 25)
        pauses = np.where(random.random(25) < 0.3, random.integers(1, 60, 25), 0)
        ends = np.cumsum(lengths + pauses)
        tier = tgt.IntervalTier(0, (ends[-1] + 20) / 100, "syllables")
        for start, end, label in zip(ends - lengths, ends, random.choice(list("ABCDEF"), 25), strict=True):
            tier.add_interval(tgt.Interval(start / 100, end / 100, label))
        grid = tgt.TextGrid()
        grid.add_tier(tier)
        tgt.write_to_file(grid, str(folder / f"{name}.TextGrid"), format="long")
        # Every other boundary near one of a syllable, so that a share of them matches.
        edges = np.unique(
            [*(ends[random.random(25) < 0.7] // 2 + random.integers(-3, 4)), *random.integers(0, ends[-1] // 2, 9)]
        )
        edges = edges[edges >= 0]
        stops = edges[1:] - np.where(random.random(len(edges) - 1) < 0.2, 1, 0)
        frames = np.stack([edges[:-1], stops], axis=1)[stops > edges[:-1]]
        units = random.integers(0, 8, len(frames))
        torch.save(torch.from_numpy(np.column_stack([frames, units])), folder / f"{name}.pt")
        made[name] = frames / 50, units, float(tier.end_time)
    joined = Joined(
        tuple(
            Utterance(reference, made[reference.file_name][0], *made[reference.file_name][1:])
            for reference in load_references(str(folder))
        )
    )
    return folder, joined


@pytest.mark.parametrize("shift", [0.0, 0.005, -0.005, -0.02, 0.035])
def test_boundaries_and_tokens_are_those_of_zerosyl(corpus, shift, monkeypatch):
    folder, joined = corpus
    # Times of tgt are equal up to 0.1 ms, so that of pairs 50 ms apart, which float64 sees on either side of the edge,
    # the package takes those at the end of a run. Without that it counts as we do.
    monkeypatch.setattr(importlib.import_module("tgt").Time, "_precision", 5e-324)
    theirs = load("zerosyl.eval.boundaries").evaluate_boundary_metrics(
        folder, folder, "*.pt", "*.TextGrid", constant_shift=shift
    )
    report = evaluate_boundary(joined, 0.0, NO_INTERVALS, zerosyl_shift=-shift)
    found, tokens = report.protocols["zerosyl"], report.syllables["zerosyl_tokens"]
    ours = [found.precision, found.recall, found.f1, found.over_segmentation, found.r_value]
    ours += [tokens.precision, tokens.recall, tokens.f1]
    assert [figure.value for figure in ours] == pytest.approx(theirs, abs=1e-12)
    assert 0.2 < tokens.f1.value < found.f1.value < 0.95


def test_clusters_are_those_of_zerosyl(corpus):
    folder, joined = corpus
    theirs = load("zerosyl.eval.clustering").evaluate_clustering_metrics(folder, folder, "*.pt", "*.TextGrid")
    found = evaluate_purity(joined, NO_INTERVALS).protocols["zerosyl"]
    # It adds 1e-10 to the share of each pair of a label and a unit.
    ours = found.syllable_purity.value, found.cluster_purity.value, found.snmi.value
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_the_bitrate_is_that_of_zerosyl(corpus):
    folder, joined = corpus
    theirs = load("zerosyl.eval.bitrate").evaluate_bitrate_and_freq(folder, folder, "*.pt", "*.TextGrid")
    rate = measure_rate(joined, NO_INTERVALS)
    assert (rate.entropy_bits_per_second, rate.hertz) == pytest.approx(theirs, abs=1e-6)


def random_intervals(random, count, least=0.06):
    """Apart from each other, none shorter than the tolerance, (n, 2) seconds."""
    lengths, pauses = random.uniform(least, 0.5, count), random.choice([0.0, 0.0, 0.1], count)
    ends = np.cumsum(lengths + pauses)
    return np.stack([ends - lengths, ends], axis=1)


def near(random, intervals):
    """Some of them, moved by up to 80 ms at either end, and some others."""
    kept = intervals[random.random(len(intervals)) < 0.8]
    edges = np.unique(np.clip((kept + random.uniform(-0.08, 0.08, kept.shape)).ravel(), 0, None))
    moved = np.stack([edges[:-1], edges[1:]], axis=1)
    return moved[(np.diff(moved)[:, 0] > 0.06) & (random.random(len(moved)) < 0.8)]


def counts_of(theirs):
    """Matched, reference and predicted of what findsylls counts."""
    wrong = theirs["Sub"] or 0
    return theirs["TP"], theirs["TP"] + theirs["Del"] + wrong, theirs["TP"] + theirs["Ins"] + wrong


@pytest.mark.parametrize("seed", range(20))
def test_spans_and_nuclei_are_those_of_findsylls(seed):
    spans, nuclei = load("findsylls.evaluation.spans"), load("findsylls.evaluation.nuclei")
    random = np.random.default_rng(seed)
    reference = random_intervals(random, 40)
    found = near(random, reference)
    pairs = [tuple(one) for one in found.tolist()]
    theirs = spans.evaluate_syllable_spans(
        pairs, {"intervals": [tuple(one) for one in reference.tolist()], "deleted": []}
    )
    assert theirs["TP"] > 3
    assert astuple(count_spans(reference, found)) == counts_of(theirs)
    for width in (0.05, 0.3):  # vowels far from each other, and near enough to share a middle
        vocalic = reference + np.array([width, -width]) * np.diff(reference)
        middles = [(start + end) / 2 for start, end in pairs]
        theirs = nuclei.evaluate_nuclei(middles, [tuple(one) for one in vocalic.tolist()])
        assert astuple(count_nuclei(vocalic, found)) == counts_of(theirs)


def test_vowels_are_those_of_findsylls():
    theirs = load("findsylls.config.constants").SYLLABIC
    for label in ("AA1", "ax-h", "axr", "ER0", "en", "eng", "IX", "ux", "B", "dcl", "epi", "h#", "NG", "Q", "sil", "W"):
        found = vowels([Phone(0.0, 1.0, label)])
        assert bool(found) == (re.sub(r"[^A-Z]", "", label.upper()) in theirs)
        assert is_silence(label) <= (found == [])
    assert vowels([Phone(0.0, 1.0, "ɔ")]) is None
