"""A page of pictures with their sound: one HTML file that asks nothing of anybody, for a browser without a network."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import soundfile

from sdhubert_ray.speech import SAMPLE_RATE
from sdhubert_ray.viewing.plot import Drawing
from sdhubert_ray.viewing.view import View, reach_into

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
 :root {{ color-scheme: light dark; font-family: system-ui, sans-serif }}
 body {{ max-width: 75rem; margin: 1rem auto; padding: 0 1rem }}
 h1 {{ font-size: 1.1rem; overflow-wrap: anywhere }}
 .picture {{ position: relative; background: white }}
 .picture img {{ display: block; width: 100% }}
 .picture button {{ position: absolute; background: none; border: 0; padding: 0; cursor: pointer }}
 .picture button:hover, .picture button:focus-visible {{ background: #0072b233; outline: 2px solid #0072b2 }}
 .cursor {{ position: absolute; width: 2px; background: #d55e00; pointer-events: none }}
 audio {{ width: 100%; margin: .5rem 0 2rem }}
</style>
</head>
<body>
<p>Click a syllable to hear it; Tab and Enter do so too.</p>
{sections}
<script>
for (const section of document.querySelectorAll("section")) {{
  const audio = section.querySelector("audio"), cursor = section.querySelector(".cursor");
  const rows = JSON.parse(section.dataset.rows);
  let until = Infinity;
  for (const button of section.querySelectorAll("button"))
    button.addEventListener("click", () => {{
      until = Number(button.dataset.end);
      audio.currentTime = Number(button.dataset.start);
      audio.play();
    }});
  audio.addEventListener("pause", () => {{ until = Infinity; }});
  const follow = () => {{
    const now = audio.currentTime;
    if (now >= until) audio.pause();
    const row = rows.find(([begin, end]) => begin <= now && now <= end);
    cursor.hidden = !row || (audio.paused && !now);
    if (row) {{
      const [begin, end, left, top, width, height] = row;
      cursor.style.left = `${{left + width * (now - begin) / (end - begin)}}%`;
      cursor.style.top = `${{top}}%`;
      cursor.style.height = `${{height}}%`;
    }}
    requestAnimationFrame(follow);
  }};
  follow();
}}
</script>
</body>
</html>
"""

_SECTION = """<section data-rows="{rows}">
<h1>{title}</h1>
<div class="picture">
<img alt="{alt}" src="data:image/svg+xml;base64,{picture}">
{buttons}
<span class="cursor" hidden></span>
</div>
<audio controls preload="auto" src="data:audio/flac;base64,{audio}"></audio>
</section>"""


class _Place(NamedTuple):
    """A box on a picture, in percent of it, from its upper left."""

    left: float
    top: float
    width: float
    height: float


def write_page(pictures: Sequence[tuple[View, Drawing]]) -> str:
    """One HTML file of pictures, each with its sound: a click on a syllable plays it."""
    titles = [view.title for view, _ in pictures]
    sections = "\n".join(_section(view, drawing) for view, drawing in pictures)
    return _PAGE.format(title=html.escape(", ".join(titles)), sections=sections)


def to_svg(drawing: Drawing) -> bytes:
    """A picture as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _section(view: View, drawing: Drawing) -> str:
    rows = [[row.begin - view.begin, row.end - view.begin, *_place(row.box)] for row in drawing.rows]
    told = f"{len(view.segments)} syllables from {view.begin:.2f} to {view.end:.2f} s"
    return _SECTION.format(
        rows=html.escape(str([[round(value, 4) for value in row] for row in rows])),
        title=html.escape(view.title),
        alt=html.escape(f"{view.title}: {told}"),
        picture=base64.b64encode(to_svg(drawing)).decode(),
        buttons="\n".join(_buttons(view, drawing)),
        audio=base64.b64encode(_to_flac(view)).decode(),
    )


def _buttons(view: View, drawing: Drawing) -> Iterator[str]:
    for row in drawing.rows:
        place = _place(row.box)
        for number in reach_into(view.segments, row.begin, row.end):
            start, end = view.segments[number]
            left, right = (
                place.left + place.width * (min(max(time, row.begin), row.end) - row.begin) / (row.end - row.begin)
                for time in (start, end)
            )
            style = f"left:{left:.3f}%;top:{place.top:.3f}%;width:{right - left:.3f}%;height:{place.height:.3f}%"
            label = f"syllable {view.numbers[number]}, {start:.2f} to {end:.2f} s"
            if view.units is not None:
                label += f", unit {view.units[number]}"
            times = f'data-start="{max(start - view.begin, 0):.4f}" data-end="{end - view.begin:.4f}"'
            yield f'<button type="button" {times} style="{style}" title="{label}" aria-label="{label}"></button>'


def _place(box: tuple[float, float, float, float]) -> _Place:
    left, bottom, width, height = (100 * part for part in box)
    return _Place(left, 100 - bottom - height, width, height)


def _to_flac(view: View) -> bytes:
    samples = view.samples / max(1.0, float(np.abs(view.samples).max(initial=0)))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
