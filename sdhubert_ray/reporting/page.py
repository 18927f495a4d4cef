"""A page as one file: markup, style, scripts and data in it, and a policy that lets nothing else be asked for."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files

from sdhubert_ray.reporting.content import Page

_ASSETS = files("sdhubert_ray.reporting") / "assets"
_LIBRARY = ("wavesurfer.min.js", "spectrogram.min.js", "timeline.min.js")
"""wavesurfer.js and its plugins, see assets/vendor.json."""
_SCRIPTS = (
    "dom.js",
    "charts.js",
    "tables.js",
    "sound.js",
    "lanes.js",
    "player.js",
    "browser.js",
    "units.js",
    "main.js",
)
"""Ours, in the order in which they need each other."""


def to_html(page: Page) -> Iterator[bytes]:
    """The bytes of a page, in parts: what is seen first, then the sounds, which are read when they are needed.

    Every text of the data is JSON in an element that is no script and no markup, and no `<` is in it; the policy of the
    page allows the scripts by their digests, and nothing to be loaded from anywhere.
    """
    scripts = ["\n".join(map(_read, _LIBRARY)), "(() => {\n" + "\n".join(map(_read, _SCRIPTS)) + "\n})()"]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; media-src data: blob:; "
        f"style-src 'unsafe-inline'; script-src {' '.join(map(_digest, scripts))}"
    )
    about = {"version": version("sdhubert_ray"), "made": datetime.now(UTC).isoformat(timespec="minutes")}
    content = {**asdict(replace(page, sounds=())), **about}
    parts = {
        "POLICY": policy,
        "STYLE": f'<style>{_read("report.css")}</style><style id="tiers" media="not all">{_read("tiers.css")}</style>',
        "DATA": f'<script type="application/json" id="data">{_embed(content)}</script>',
        "SCRIPTS": "".join(f"<script>{script}</script>\n" for script in scripts),
    }
    text = _read("report.html")
    for name, part in parts.items():
        before, text = text.split(f"<!--{name}-->")
        yield before.encode()
        yield part.encode()
    before, text = text.split("<!--SOUNDS-->")
    yield before.encode()
    for number, sound in enumerate(page.sounds):
        if sound is not None:
            encoded = base64.b64encode(sound).decode()
            yield f'<script type="application/json" id="sound-{number}">"{encoded}"</script>\n'.encode()
    yield text.encode()


def _embed(value: object) -> str:
    r"""JSON in which no `<` can end an element: it is \u003c, as all that is not ASCII is escaped."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
