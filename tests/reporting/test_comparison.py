"""The page of a comparison in a real browser: the same recordings by every system."""

import json

import pytest
from commands import sdhubert
from recorded import DEMO, SCRIPT
from reporting_pages import LISTEN, assert_plays, choose, open_page

from sdhubert_ray import read_segments
from sdhubert_ray.evaluation.published import SYSTEMS

pytestmark = [pytest.mark.seconds, pytest.mark.xdist_group("browser")]

MARKUP = "<script>alert(1)</script>"
"""The title of a system."""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of three recordings, of which one has markup for a name; its folder."""
    folder = tmp_path_factory.mktemp("compared")
    known = json.loads((DEMO / "syllables.json").read_text())
    known["script"] = {**known["synth_0"], "file_name": SCRIPT}
    (folder / "syllables.json").write_text(json.dumps(known))
    rows = [(one["file_name"], DEMO / f"{name}.flac") for name, one in known.items() if name != "script"]
    rows.append((SCRIPT, DEMO / "synth_0.flac"))
    (folder / "m.jsonl").write_text("".join(json.dumps({"id": name, "uri": str(path)}) + "\n" for name, path in rows))
    command = ["compare", folder / "m.jsonl", "--systems", f"energy,{MARKUP}:uniform", "--n-units", "8"]
    sdhubert(*command, "--references", folder / "syllables.json", "-o", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def page(browser, compared):
    page = open_page(browser, compared / "index.html")
    page.evaluate(LISTEN)
    yield page
    assert not page.problems
    page.context.close()


def lane(page, number):
    """Syllables of a system in the recording that is shown."""
    return page.locator(".found").nth(number).locator("button")


def test_nothing_is_asked_for_and_titles_stay_text(page):
    choose(page, SCRIPT)
    assert page.locator("#recording").inner_text() == SCRIPT
    assert page.locator("h1").inner_text() == f"energy, {MARKUP}"
    assert MARKUP in page.locator(".lane .name").nth(1).inner_text()
    assert page.locator("main script, main img, header script").count() == 0
    assert page.problems == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in page.asked)
    assert sum(url.startswith("file:") for url in page.asked) == 1


@pytest.mark.parametrize(("number", "system"), [(0, "energy"), (1, "script-alert-1-script")])
def test_a_click_in_a_lane_plays_its_syllable_and_no_more(page, compared, number, system):
    found = {one.id: one.segments for one in read_segments(str(compared / "systems" / system / "segments"))}
    choose(page, "synth_2.flac")
    start, end = found["synth_2.flac"][4]
    assert lane(page, number).count() == len(found["synth_2.flac"])
    assert_plays(page, lane(page, number).nth(4), "audio", start, end)
    assert "syllable 5" in page.locator("#live").inner_text()
    assert page.locator(".found [aria-current]").count() == 1


def test_lanes_share_the_axis_of_the_references(page):
    """A uniform syllable lies where its time says, as far as a reference of that time would."""
    choose(page, "synth_2.flac")
    seconds = page.evaluate("document.getElementById('audio').duration")
    box = page.locator(".lanes").bounding_box()
    for place in (0, 5, 9):
        left = lane(page, 1).nth(place).bounding_box()["x"]
        assert left - box["x"] == pytest.approx(0.2 * place / seconds * box["width"], abs=2)
    syllables = json.loads((DEMO / "syllables.json").read_text())["synth_2"]["syllables"]
    shown = page.locator(".truth div")
    assert shown.count() == len(syllables)
    expected = float(syllables[3]["start"]) / seconds * box["width"]
    assert shown.nth(3).bounding_box()["x"] - box["x"] == pytest.approx(expected, abs=2)


def test_keys_go_on_in_the_lane(page):
    choose(page, "synth_0.flac")
    lane(page, 1).nth(2).click()
    page.locator("#listen h2").click()
    page.keyboard.press("ArrowRight")
    assert "syllable 4" in page.locator("#live").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "syllable 2" in page.locator("#live").inner_text()
    assert page.locator(".found [aria-current]").get_attribute("aria-label").startswith(f"{MARKUP}, syllable 2")


def test_figures_are_those_of_the_file_and_published_ones_stand_apart(page, compared):
    ours, published = page.locator("#agreement .panel").all()
    systems = json.loads((compared / "comparison.json").read_text())["systems"]
    assert ours.locator("thead th").all_inner_texts() == ["figure, protocol", "energy", MARKUP]
    for protocol in ("sdhubert", "onsets_offsets", "zerosyl"):
        row = ours.locator("tbody tr", has_text=f"F1 %, {protocol}").first.locator("td").all_inner_texts()
        values = [one["boundary"]["protocols"][protocol]["f1"]["value"] for one in systems]
        assert [text.split(" ")[0] for text in row] == [f"{100 * value:.1f}" for value in values]
    assert "None of it was measured here" in published.inner_text()
    assert published.locator("tbody th").all_inner_texts() == [one.system for one in SYSTEMS]
    assert "NOT TUNED" in page.locator("#notes").inner_text()


def test_a_phone_is_not_scrolled_sideways(page):
    page.set_viewport_size({"width": 375, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    heading = page.locator("#agreement tbody th").first
    before = heading.bounding_box()["x"]
    page.locator("#agreement .scroll").first.evaluate("box => { box.scrollLeft = 200; }")
    assert heading.bounding_box()["x"] == pytest.approx(before, abs=1)
    page.set_viewport_size({"width": 1280, "height": 720})


def test_everything_has_a_name_for_a_screen_reader(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=group], section")]
            .filter((one) => !(one.ariaLabel || one.getAttribute("aria-labelledby") || one.labels?.length
                || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert nameless == []
