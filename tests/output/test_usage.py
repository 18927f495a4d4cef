"""Statistics of units against a plain count."""

import math
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from sdhubert_ray.output.usage import UnitUsage

SEQUENCES = st.lists(
    st.tuples(st.lists(st.integers(0, 5)), st.floats(0.5, 100), st.floats(0, 0.5)), min_size=1, max_size=6
)


@given(SEQUENCES, st.booleans())
def test_against_a_plain_count(recordings, merged):
    usage = UnitUsage(8)
    for units, audio, speech in recordings:
        usage.add(np.array(units, np.int32), audio, speech)
    every = [
        unit
        for units, *_ in recordings
        for unit in ([unit for unit, _ in groupby(units)] if merged else units)
    ]  # fmt: skip
    audio, speech = (math.fsum(row[side] for row in recordings) for side in (1, 2))
    counts = Counter(every)
    rates = usage.rates(merged)
    assert usage.recordings == len(recordings)
    assert (rates.tokens, rates.used, rates.unused) == (len(every), len(counts), 8 - len(counts))
    assert rates.rate == pytest.approx(len(every) / audio)
    assert rates.rate_in_segments == pytest.approx(len(every) / speech if speech else 0.0)
    assert rates.bitrate == pytest.approx(3 * len(every) / audio)
    expected = entropy(list(counts.values()), base=2) if counts else 0.0
    assert rates.entropy == pytest.approx(expected, abs=1e-12)
    assert rates.entropy_bitrate == pytest.approx(expected * len(every) / audio)
    assert rates.perplexity == pytest.approx(2**expected)


def test_nothing_at_all():
    rates = UnitUsage(16).rates()
    assert (rates.tokens, rates.rate, rates.bitrate, rates.entropy, rates.perplexity) == (0, 0, 0, 0, 1)
    assert (rates.used, rates.unused) == (0, 16)


def test_one_unit_carries_no_information():
    usage = UnitUsage(1)
    usage.add(np.zeros(5, np.int32), 2.0, 1.0)
    assert (usage.rates().rate, usage.rates().bitrate, usage.rates().entropy_bitrate) == (2.5, 0, 0)
    assert usage.rates(merged=True).tokens == 1
