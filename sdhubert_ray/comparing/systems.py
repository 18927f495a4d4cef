"""The systems of a comparison: what the user names, and what stands behind each name."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdhubert_ray.comparing.baselines import BASELINES
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.presets import PRESETS
from sdhubert_ray.speech.systems import SYSTEMS

FIGURES, PAGE = "comparison.json", "index.html"
"""The files of a comparison."""
BUNDLED = "bundled"
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Contender:
    """A system to be compared.

    Attributes:
        title: what the tables call it.
        name: `bundled`, a preset, or a baseline.
        checkpoint: its path, URI or name; None for a baseline.
    """

    title: str
    name: str
    checkpoint: str | None

    @property
    def folder(self) -> str:
        """The folder of what it makes."""
        return _UNFIT.sub("-", self.title).strip("-.")

    @property
    def preset(self) -> str | None:
        """That of its run; None takes the usual one, or there is none."""
        return self.name if self.name in PRESETS else None


def parse_systems(text: str) -> tuple[Contender, ...]:
    """Read `[TITLE:]NAME[=CHECKPOINT],...`.

    NAME is `bundled`, a baseline, or a preset, which needs a checkpoint. Of one preset twice each is called by its
    checkpoint, too, unless it has a title. Nothing is fetched.

    Raises:
        UserError: an unknown name, a checkpoint that is missing or has no place, two systems of one title.
    """
    found = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise UserError("--systems names none; the systems are " + _known())
    times = Counter(one.title for one in found)
    found = [one if times[one.title] == 1 else replace(one, title=_longer(one)) for one in found]
    for place, one in enumerate(found):
        twin = next((other for other in found[:place] if other.folder.lower() == one.folder.lower()), None)
        if twin is not None:
            raise UserError(
                f"--systems has {twin.title!r} and {one.title!r}, which are called alike; give one a title, as in "
                f"other:{one.name}" + ("" if one.checkpoint is None else f"={one.checkpoint}")
            )
    return tuple(found)


def _parse(text: str) -> Contender:
    named, _, checkpoint = text.partition("=")
    title, _, name = (part.strip() for part in named.rpartition(":"))
    if name not in {BUNDLED, *BASELINES, *PRESETS}:
        raise UserError(f"--systems has {name!r}, which is no system; the systems are {_known()}")
    needs = name in PRESETS
    if needs and not checkpoint:
        raise UserError(
            f"system {name} needs its checkpoint, as in {name}=FILE; the weights are {SYSTEMS[name].weights}"
        )
    if not needs and checkpoint:
        raise UserError(f"system {name} takes no checkpoint, but has {checkpoint!r}; leave it out, or name a preset")
    found = Contender(title or name, name, checkpoint or (BUNDLED if name == BUNDLED else None))
    if not found.folder:
        raise UserError(f"--systems has the title {title!r}; it needs a letter or a digit")
    return found


def _longer(one: Contender) -> str:
    """A title that tells of the checkpoint, too."""
    if one.checkpoint is None or one.title != one.name:
        return one.title
    return f"{one.title} {one.checkpoint.rstrip('/').rpartition('/')[2]}"


def _known() -> str:
    own: Sequence[str] = (BUNDLED, *BASELINES)
    return f"{', '.join(own)}, and with =CHECKPOINT {', '.join(PRESETS)}"
