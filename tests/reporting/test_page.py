"""A page is one file: its data stays data, its scripts are those that its policy allows, nothing else is named."""

import base64
import hashlib
import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sdhubert_ray.reporting import to_html
from sdhubert_ray.reporting.content import Page, Shown
from sdhubert_ray.reporting.page import _ASSETS


def text_of(page):
    return b"".join(to_html(page)).decode()


def shown(name):
    return Shown(name, "ok", None, 1.0, 0.0, 1.0, 0, [], None, None, None)


@given(st.text())
def test_any_text_comes_back_as_it_was(name):
    text = text_of(Page("run", name, name, recordings=[shown(name)], sounds=[None]))
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(found)["recordings"][0]["id"] == name
    assert "<" not in found
    assert found.isascii()


@pytest.mark.parametrize(
    "name", ["</script><script>x()</script>", "<!--SCRIPTS-->", "<!--SOUNDS-->", "\u2028", "\udce9"]
)
def test_a_name_changes_nothing_but_the_data(name):
    pages = [text_of(Page("run", title, "p")) for title in (name, "x")]
    tags = [re.findall(r"<(?:script|style|/script|!--)[^>]*>", text) for text in pages]
    assert tags[0] == tags[1]


def test_the_policy_allows_the_scripts_that_are_there():
    text = text_of(Page("run", "t", "p"))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    assert policy.endswith("script-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none';")
    assert not re.search(r"<(?:link|script|img|iframe|audio)[^>]* (?:src|href)=\"(?!data:,)", text)


def test_sounds_come_last_each_by_its_number():
    recordings = [shown("a"), shown("b"), shown("c")]
    text = text_of(Page("run", "t", "p", recordings=recordings, sounds=[b"one", None, b"three"]))
    found = re.findall(r'<script type="application/json" id="sound-(\d+)">"(.*?)"</script>', text)
    assert [(int(number), base64.b64decode(sound)) for number, sound in found] == [(0, b"one"), (2, b"three")]
    assert text.index("sound-0") > text.rindex("<script>")


def test_vendored_scripts_tell_version_and_licence():
    wanted = json.loads((_ASSETS / "vendor.json").read_text())
    for path in wanted["files"]:
        text = (_ASSETS / path.rpartition("/")[2]).read_text()
        assert text.startswith(f"/*! {wanted['name']} {wanted['version']}, {path}\n")
        assert "BSD 3-Clause License" in text
        assert "</script" not in text.lower()
        assert "<!--" not in text
