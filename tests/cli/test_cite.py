"""`sdhubert cite`: an entry of BibTeX for every preset, and what is not as published."""

import re

import pytest
from commands import complaint, sdhubert

from sdhubert_ray.speech.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_paper(preset):
    printed = sdhubert("cite", preset).stdout
    entry, _, remarks = printed.partition("\n}\n")
    assert re.match(r"@(inproceedings|article|misc)\{\w+,\n", entry)
    assert entry.count("{") == entry.count("}") + 1
    for field in ("title", "author", "year"):
        assert re.search(rf"^  {field} +=", entry, re.MULTILINE)
    assert "arXiv:" in entry
    assert all(line.startswith("% ") for line in remarks.splitlines())
    assert "% Weights: " in remarks


def test_a_preset_that_is_none_is_named():
    assert "unknown preset 'sylbr'" in complaint(sdhubert("cite", "sylbr", expect=2))
