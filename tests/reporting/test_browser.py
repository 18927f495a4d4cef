"""The page in a real browser: what it shows, plays and asks for."""

import pytest
from commands import sdhubert
from evaluation_inputs import make_output, make_row
from recorded import SCRIPT, write_training
from reporting_pages import LISTEN, TOLERANCE, assert_plays, choose, heard, open_page

pytestmark = [pytest.mark.seconds, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def page(browser, recorded, references, tmp_path_factory):
    """The report of an output with sound, references and a recording whose name is markup."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    sdhubert("report", recorded, "-o", file, "--references", references, "--by", "speaker")
    page = open_page(browser, file)
    page.evaluate(LISTEN)
    yield page
    assert not page.problems
    page.context.close()


def syllables(page):
    return page.locator(".over button")


def reset(page):
    if page.locator("#clear").is_visible():
        page.locator("#clear").click()
    page.locator("#listen h2").click()  # no field has the keys


def names(page):
    return page.locator("#list .name").all_text_contents()


def test_nothing_is_asked_for_and_names_stay_text(page):
    assert page.title() == "out · sdhubert report"
    choose(page, SCRIPT)
    assert page.locator("#recording").inner_text() == SCRIPT
    assert page.locator("#list img, #recording img, #list script").count() == 0
    assert page.title() == "out · sdhubert report"
    assert page.problems == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in page.asked)
    assert sum(url.startswith("file:") for url in page.asked) == 1


def test_a_script_that_got_in_would_not_run(page):
    """The policy of the page, not only its care."""
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.taken = 1'}))")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">')")
    assert page.evaluate("window.taken === undefined")
    refused = [page.problems.pop() for _ in range(len(page.problems))]
    assert all("Content Security Policy" in problem for problem in refused)
    assert len(refused) == 2


@pytest.mark.parametrize("number", [0, 4])
def test_a_click_plays_its_syllable_and_no_more(page, number):
    choose(page, "synth_2.flac")
    start = 0.2 + 0.24 * number
    assert_plays(page, syllables(page).nth(number), "audio", start, start + 0.2)
    assert f"syllable {number + 1} of" in page.locator("#live").inner_text()
    assert syllables(page).nth(number).get_attribute("aria-current") is not None


def test_keys_play_go_on_and_change_the_speed(page):
    choose(page, "synth_0.flac")
    reset(page)
    page.keyboard.press("ArrowRight")
    assert heard(page, "audio")[0] == pytest.approx(0.2, abs=TOLERANCE)
    page.keyboard.press("ArrowRight")
    assert heard(page, "audio")[0] == pytest.approx(0.44, abs=TOLERANCE)
    page.keyboard.press("ArrowLeft")
    assert heard(page, "audio")[0] == pytest.approx(0.2, abs=TOLERANCE)
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert page.evaluate("document.getElementById('audio').playbackRate") == 0.5
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.evaluate("document.getElementById('audio').playbackRate") == 1
    page.keyboard.press("Space")
    page.wait_for_function("() => !document.getElementById('audio').paused")
    assert page.locator("#play").inner_text() == "Pause"
    page.keyboard.press("Space")
    page.wait_for_function("() => document.getElementById('audio').paused")
    before = page.locator("#recording").inner_text()
    page.keyboard.press("j")
    page.wait_for_function("name => document.getElementById('recording').textContent !== name", arg=before)
    page.locator("#search").press_sequentially("synth_0")  # keys are letters in a field
    assert names(page) == ["synth_0.flac"]
    reset(page)


def test_keys_are_the_pages_own_where_the_player_is_out_of_view(page):
    page.locator("h1").click()
    page.evaluate("document.getElementById('audio').heard.splice(0)")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert page.evaluate("document.getElementById('audio').paused")
    assert page.evaluate("document.getElementById('audio').heard.length") == 0


def test_zoom_keeps_syllables_on_their_times(page):
    choose(page, "synth_2.flac")
    first, last = syllables(page).first, syllables(page).last
    wide = last.bounding_box()["x"] - first.bounding_box()["x"]
    page.locator("#in").click()
    page.locator("#in").click()
    assert last.bounding_box()["x"] - first.bounding_box()["x"] == pytest.approx(1.6**2 * wide, rel=0.02)
    page.locator("#out").click()
    page.locator("#out").click()
    assert last.bounding_box()["x"] - first.bounding_box()["x"] == pytest.approx(wide, rel=0.02)


def test_zoom_waits_for_the_sound(page):
    choose(page, "synth_2.flac")
    page.evaluate("""() => {
        const item = [...document.querySelectorAll("#list li")].find((one) => one.textContent.includes("synth_2.flac"));
        item.click();
        document.getElementById("in").click();
    }""")
    choose(page, "synth_2.flac")
    assert not page.problems


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"#search": "SYNTH"}, {"synth_0.flac", "synth_2.flac"}),
        ({"#status": "missing"}, {"gone.wav"}),
        ({"#least": "4", "#most": "20"}, {"synth_2.flac"}),
        ({"#most": "0.5"}, {"broken.wav", "gone.wav"}),
        ({"#unit-filter": "4", "#search": "l"}, {"synth_0.flac", "synth_2.flac", "long.wav", SCRIPT}),
        ({"#unit-filter": "5"}, set()),
    ],
)
def test_filters(page, fields, expected):
    for field, value in fields.items():
        (page.select_option if field == "#status" else page.fill)(field, value)
    found, told = set(names(page)), page.locator("#list .empty").count()
    reset(page)
    assert (found, told) == (expected, not expected)
    assert len(names(page)) == 6


def test_what_has_no_sound_says_why(page):
    page.locator("#list li", has_text="gone.wav").click()
    assert "does not exist" in page.locator(".silent").inner_text()
    assert page.locator("#play").is_disabled()


def test_all_examples_of_a_unit_in_a_row(page):
    page.fill("#unit", "3")
    page.locator("#unit").press("Enter")
    cards = page.locator(".card")
    assert cards.count() == 24
    assert "Unit 3:" in page.locator("#examples").inner_text()
    page.locator(".more").click()
    assert cards.count() > 24
    of_second = next(place for place, text in enumerate(cards.all_text_contents()) if "synth_2" in text)
    assert_plays(page, cards.nth(of_second), "clip", 0.2 + 0.24 * 3, 0.4 + 0.24 * 3)
    page.locator("#play-all").click()
    page.wait_for_function("() => document.getElementById('clip').heard.filter(([what]) => what === 'to').length >= 2")
    page.locator("#play-all").click()
    page.wait_for_function("() => document.getElementById('clip').paused")


def test_worst_recordings_lead_to_the_player(page):
    worst = page.locator("[aria-label='Worst recordings first'] .linkish")
    assert sorted(worst.all_text_contents()) == ["synth_0.flac", "synth_2.flac"]
    worst.first.click()
    chosen = worst.first.text_content()
    page.wait_for_function("name => document.getElementById('recording').textContent === name", arg=chosen)
    assert page.locator(".truth div").count() > 5
    assert page.locator(".mark.missed").count() > 0
    assert page.get_by_role("table").filter(has_text="By speaker").count() == 0  # its title is a heading
    assert page.get_by_role("heading", name="By speaker").count() == 1
    assert page.get_by_role("heading", name="By length").count() == 1


def test_colours_change_with_a_button(page):
    background = "getComputedStyle(document.body).backgroundColor"
    page.locator("#theme").click()
    light = page.evaluate(background)
    page.locator("#theme").click()
    assert page.evaluate(background) != light
    page.locator("#theme").click()


def test_everything_has_a_name_for_a_screen_reader(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=img], [role=listbox], section")]
            .filter((one) => !(one.ariaLabel || one.getAttribute("aria-labelledby") || one.labels?.length
                || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_a_phone_is_not_scrolled_sideways(page):
    page.set_viewport_size({"width": 375, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.set_viewport_size({"width": 1280, "height": 720})


@pytest.fixture(params=["nothing could be read", "a training"])
def other(request, tmp_path):
    if request.param == "a training":
        return write_training(tmp_path / "run"), ["Curves", "How it was made"]
    rows = [
        make_row("gone.wav", status="missing", error="gone", duration=0.0),
        make_row("a", status="silent", uri="/x"),
    ]
    return make_output(tmp_path / "out", rows), ["Summary", "Look and listen", "How it was made"]


def test_other_pages_work_as_well(browser, other, tmp_path):
    target, sections = other
    sdhubert("report", target, "-o", tmp_path / "page.html")
    page = open_page(browser, tmp_path / "page.html")
    assert page.locator("section > h2").all_text_contents() == sections
    page.locator("#theme").click()
    if sections[0] == "Curves":
        chart = page.locator("svg.chart").first
        assert "steps 10 to 3000" in chart.get_attribute("aria-label")
        assert chart.locator(".alarm").count() == 2
        chart.focus()
        page.keyboard.press("ArrowLeft")
        assert "step 2,990" in page.locator("#live").text_content()
    assert page.problems == []
    page.context.close()
