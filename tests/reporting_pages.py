"""Reports opened in a browser, whose errors and requests are noted, and what they play."""

import pytest

TOLERANCE = 0.03
LISTEN = """() => {
    for (const id of ["audio", "clip"]) {
        const audio = document.getElementById(id);
        const [play, pause] = [audio.play, audio.pause];
        audio.heard = [];
        audio.play = function () {
            audio.heard.push(["from", audio.currentTime]);
            return play.call(audio);
        };
        audio.pause = function () {
            if (!audio.paused) audio.heard.push(["to", audio.currentTime]);
            pause.call(audio);
        };
    }
}"""
"""Notes where the elements are, by their own clocks, when they are told to begin and to stop."""


def open_page(browser, file, **options):
    """Open a page; `problems` are what its console complains of, `asked` the URLs that it has asked for."""
    page = browser.new_context(**options).new_page()
    page.problems, page.asked = [], []
    page.on("console", lambda line: page.problems.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("dialog", lambda dialog: page.problems.append(dialog.message))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function("() => document.documentElement.dataset.ready === 'yes'")
    return page


def heard(page, element):
    """Where an audio element has begun and stopped since the last time."""
    page.wait_for_function("id => (document.getElementById(id).heard.at(-1) ?? [])[0] === 'to'", arg=element)
    (_, begun), (_, ended) = page.evaluate("id => document.getElementById(id).heard.splice(0)", element)[-2:]
    return begun, ended


def assert_plays(page, button, element, start, end):
    """A click plays these seconds and no more; where others have the processor at its end, another click shows it."""
    for _ in range(6):
        button.click()
        begun, ended = heard(page, element)
        assert begun == pytest.approx(start, abs=TOLERANCE)
        assert ended >= end - TOLERANCE
        if ended <= end + TOLERANCE:
            return
    pytest.fail(f"it stopped at {ended}, not at {end}")


def choose(page, name):
    item = page.locator("#list li", has_text=name).first
    item.click()
    number = item.get_attribute("id").removeprefix("recording-")
    page.wait_for_function("number => document.querySelector('.player').dataset.ready === number", arg=number)
