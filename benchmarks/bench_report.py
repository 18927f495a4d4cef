"""How large the page of a report is, how long it takes to make, and how soon and how smoothly it works in a browser.

python benchmarks/bench_report.py [--recordings 1000] [--seconds 12] [--keep FOLDER]

The recordings are the bundled demo speech, repeated to so many seconds, with a syllable each 200 ms and 500 units. It
needs chromium and playwright.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from reporting import ROOT, heading, record

sys.path.insert(0, str(ROOT / "tests"))

from evaluation_inputs import make_output, make_row

DEMO = ROOT / "sdhubert_ray/assets/demo"
DISTINCT = 20
LONG_TASKS = """() => { window.longest = 0; new PerformanceObserver((list) => {
    for (const one of list.getEntries()) window.longest = Math.max(window.longest, one.duration);
}).observe({type: "longtask", buffered: true}); }"""
SCROLL = """() => new Promise((done) => {
    const list = document.getElementById("list"), gaps = [];
    let last = performance.now(), turns = 0;
    const turn = (now) => {
        gaps.push(now - last); last = now; list.scrollTop += 120;
        if (++turns < 120) requestAnimationFrame(turn); else done(gaps.slice(1).sort((a, b) => a - b)[113]);
    };
    requestAnimationFrame(turn);
})"""
CLICKS = """async () => {
    const buttons = [...document.querySelector(".view > div").shadowRoot.querySelectorAll(".over button")];
    const audio = document.getElementById("audio"), pause = audio.pause, late = [];
    for (let place = 0; place < 20; place++) {
        const end = Number(buttons[place].ariaLabel.match(/to ([\\d.]+) seconds/)[1]);
        await new Promise((done) => {
            audio.pause = function () {
                const was = audio.paused; const at = audio.currentTime; pause.call(audio);
                if (!was) { late.push(1000 * (at - end)); done(); }
            };
            buttons[place].click();
        });
    }
    audio.pause = pause;
    late.sort((one, other) => one - other);
    return [late[10], late[19]];
}"""
FILTER = """() => { const began = performance.now(), field = document.getElementById("search");
    field.value = "7"; field.dispatchEvent(new Event("input")); document.body.offsetHeight;
    const took = performance.now() - began;
    field.value = ""; field.dispatchEvent(new Event("input")); return took; }"""


def make(folder: Path, recordings: int, seconds: float) -> str:
    """An output of so many recordings."""
    speech = np.concatenate([soundfile.read(DEMO / name)[0] for name in ("synth_0.flac", "synth_2.flac")])
    random = np.random.default_rng(0)
    for number in range(DISTINCT):
        tiled = np.tile(np.roll(speech, int(random.integers(len(speech)))), 1 + int(seconds * 16_000 / len(speech)))
        soundfile.write(folder / f"{number}.wav", tiled[: int(seconds * 16_000)], 16_000)
    starts = np.round(np.arange(0.1, seconds - 0.2, 0.2), 2)
    segments = np.stack([starts, starts + 0.2], axis=1)
    rows = []
    for number in range(recordings):
        units = random.zipf(1.3, len(starts)).clip(1, 500).astype(np.int32) - 1
        uri = str(folder / f"{number % DISTINCT}.wav")
        rows.append(
            make_row(f"speaker{number % 40:02d}/{number:05d}.wav", segments, uri=uri, duration=seconds, units=units)
        )
    return make_output(folder / "out", rows)


def look(file: Path) -> dict[str, float]:
    """Open a page three times; the median of each figure."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    looks = []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(file.as_uri(), wait_until="commit")
            page.evaluate(LONG_TASKS)
            page.wait_for_function("() => document.documentElement?.dataset.ready === 'yes'", polling=10)
            ready = page.evaluate("performance.now()")
            page.wait_for_function("() => document.querySelector('.player').dataset.ready !== undefined", polling=10)
            heard = page.evaluate("performance.now()")
            page.wait_for_load_state("load")
            loaded = page.evaluate("performance.now()")
            scroll, search = page.evaluate(SCROLL), page.evaluate(FILTER)
            late = page.evaluate(CLICKS)
            looks.append((ready / 1000, heard / 1000, loaded / 1000, page.evaluate("longest"), scroll, search, *late))
            page.close()
        browser.close()
    names = (
        "interactive, s",
        "first recording drawn, s",
        "all loaded, s",
        "longest task, ms",
        "95 % of frames, ms",
        "search, ms",
        "a syllable stops late by, ms",
        "the latest of 20, ms",
    )
    return dict(zip(names, np.median(np.array(looks), axis=0).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--keep", type=Path, help="leave the page here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output, file = make(folder, options.recordings, options.seconds), folder / "report.html"
        began = time.perf_counter()
        command = [sys.executable, "-m", "sdhubert_ray", "report", output, "-o", str(file)]
        subprocess.run([*command, "--sample", str(options.recordings)], check=True, stdout=subprocess.DEVNULL)
        figures = {"made in, s": time.perf_counter() - began, "size, MB": file.stat().st_size / 1e6}
        if options.keep:
            shutil.copy(file, options.keep)
        figures |= look(file)
    print(f"{heading()}\n\n| {options.recordings} recordings of {options.seconds:g} s | |\n|---|---|")
    for what, value in figures.items():
        print(f"| {what} | {value:.2f} |")
        title, _, unit = what.partition(", ")
        record(f"report of {options.recordings}: {title}", value, unit)


if __name__ == "__main__":
    main()
