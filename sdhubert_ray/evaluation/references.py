"""Reference syllables: LibriSpeech syllable JSON, or Praat TextGrids with a tier of syllables or phones."""

import json
import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.evaluation.textgrid import read_textgrid

_FORM = "it has to hold id -> {file_name, syllables: [{start, end, label}]}"
_TEXTGRID = ".textgrid"


@dataclass(frozen=True)
class Reference:
    """The syllables of a recording.

    Attributes:
        id: its name in the reference.
        file_name: of the audio; of a TextGrid its path below the folder, without ending.
        syllables: (R, 2) float64, seconds, sorted by start; they may overlap a little.
        labels: one for each.
        nuclei: (V, 2) float64, seconds, vowels and syllabic consonants; None where no phones are known.
    """

    id: str
    file_name: str
    syllables: npt.NDArray[np.float64]
    labels: tuple[str, ...]
    nuclei: npt.NDArray[np.float64] | None = None


def load_references(uri: str, tier: str | None = None) -> list[Reference]:
    """Read reference syllables.

    Args:
        uri: a JSON file, id -> {file_name, syllables: [{start, end, label}]}, times in seconds as numbers or text,
            other keys ignored; a TextGrid; or a folder, all TextGrids below which are read, see `read_textgrid`.
        tier: of the TextGrids, or None to find it by its name.

    Raises:
        UserError: it is not there, is damaged, or a syllable cannot be (its end not after its start, before 0).
    """
    grids = list_textgrids(uri)
    if grids is not None:
        return [_from_textgrid(name, grid, tier) for name, grid in grids]
    if tier is not None:
        raise UserError(f"--tier is {tier!r}, but {uri} is no TextGrid; leave it out")
    entries = _read_json(uri)
    if not entries:
        raise UserError(f"references {uri} has no recording; {_FORM}")
    return [_from_entry(name, entry, f"references {uri}: {name!r}") for name, entry in entries.items()]


def list_textgrids(uri: str) -> list[tuple[str, str]] | None:
    """The TextGrids that references are: the path below the folder, without ending, and the URI of each; or None.

    Raises:
        UserError: it is a folder without TextGrids.
    """
    if uri.lower().endswith(_TEXTGRID):
        return [(posixpath.basename(uri.rstrip("/"))[: -len(_TEXTGRID)], uri)]
    if not storage.is_folder(uri):
        return None
    names = [name for name in storage.list_files(uri) if name.lower().endswith(_TEXTGRID)]
    if not names:
        raise UserError(f"references {uri} is a folder without TextGrids; name a folder of them, or a JSON file")
    return [(name[: -len(_TEXTGRID)], storage.join(uri, name)) for name in names]


def _read_json(uri: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise UserError(f"references {uri} has {twice!r} twice; leave out one")
        return found

    try:
        entries = json.loads(storage.read_bytes(uri), object_pairs_hook=unique)
    except storage.TransientError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"references {uri} is not there; name a JSON file or a folder of TextGrids") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"references {uri} cannot be read ({first_line(error)}); {_FORM}") from error
    if not isinstance(entries, dict):
        raise UserError(f"references {uri} is a {type(entries).__name__}; {_FORM}")
    return entries


def _from_textgrid(name: str, uri: str, tier: str | None) -> Reference:
    syllables, vowels = read_textgrid(uri, tier)
    reference = _checked(name, name, syllables, f"references {uri}")
    return reference if vowels is None else replace(reference, nuclei=np.array(vowels, np.float64).reshape(-1, 2))


def _from_entry(name: str, entry: object, where: str) -> Reference:
    syllables = entry.get("syllables") if isinstance(entry, dict) else None
    file_name = entry.get("file_name") if isinstance(entry, dict) else None
    if not isinstance(file_name, str) or not file_name:
        raise UserError(f"{where} has no file_name; {_FORM}")
    if not isinstance(syllables, list):
        raise UserError(f"{where} has no list of syllables; {_FORM}")
    rows = []
    for number, syllable in enumerate(syllables):
        if not isinstance(syllable, dict) or not isinstance(syllable.get("label"), str):
            raise UserError(f"{where}: syllable {number} has no label; {_FORM}")
        times = []
        for side in ("start", "end"):
            value = syllable.get(side)
            try:
                if isinstance(value, bool) or not isinstance(value, str | int | float):
                    raise ValueError
                times.append(float(value))
            except (ValueError, OverflowError) as error:
                raise UserError(f"{where}: syllable {number} has {side} {value!r}, which is no number") from error
        rows.append((times[0], times[1], syllable["label"]))
    return _checked(name, file_name, rows, where)


def _checked(name: str, file_name: str, rows: Sequence[tuple[float, float, str]], where: str) -> Reference:
    for number, (start, end, _) in enumerate(rows):
        if not (0 <= start < end < math.inf):
            raise UserError(
                f"{where}: syllable {number} goes from {start} to {end} s; 0 <= start < end is needed, mend it"
            )
    rows = sorted(rows, key=lambda row: row[:2])
    times = np.array([row[:2] for row in rows], np.float64).reshape(-1, 2)
    return Reference(name, file_name, times, tuple(row[2] for row in rows))
