"""A browser, and outputs with sound to make reports of."""

import json
import shutil

import pytest
from evaluation_inputs import make_output
from recorded import DEMO, rows_of, write_audio


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, ended with the module: Playwright holds this thread's event loop meanwhile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """An output of recordings that are there; not to be written into."""
    folder = tmp_path_factory.mktemp("recorded")
    return make_output(folder / "out", rows_of(write_audio(folder)), carried=("speaker",))


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """The true syllables of the two recordings of the demo."""
    path = tmp_path_factory.mktemp("references") / "syllables.json"
    shutil.copy(DEMO / "syllables.json", path)
    assert len(json.loads(path.read_text())) == 2
    return str(path)
