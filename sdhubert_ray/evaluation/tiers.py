"""References as further tiers of TextGrids: all that a TextGrid has, or the syllables of a JSON file."""

from collections.abc import Callable
from functools import partial

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.joining import bare_name, rename_one, renamed
from sdhubert_ray.evaluation.references import Reference, list_textgrids, load_references
from sdhubert_ray.evaluation.textgrid import read_tiers
from sdhubert_ray.output.formats import Tier


class FurtherTiers:
    """The tiers of references, by the ids of recordings; see `joining` for how names meet.

    Attributes:
        names: of the files of the references, renamed.
    """

    def __init__(self, uri: str, rename: tuple[str, str] = ("", "")) -> None:
        """Find references.

        Args:
            uri: a JSON file, a TextGrid, or a folder of TextGrids, see `load_references`. Of a TextGrid all tiers are
                taken, whatever they are called; it is read when it is asked for.
            rename: how the names of references begin, and what ids have instead.

        Raises:
            UserError: it is not there or damaged, or two references name one recording.
        """
        grids = list_textgrids(uri)
        old, new = rename
        if grids is None:
            references = [renamed(reference, old, new) for reference in load_references(uri)]
            found = [(one.file_name, partial(_syllables, one)) for one in references]
        else:
            references = []
            found = [(rename_one(name, old, new), partial(read_tiers, grid)) for name, grid in grids]
        self.names = [name for name, _ in found]
        self._reading: dict[str, Callable[[], list[Tier]]] = {}
        for name, read in found:
            if self._reading.setdefault(bare_name(name), read) is not read:
                raise UserError(f"references {uri} have two for recording {name!r}; leave out one")
        for one in references:
            self._reading.setdefault(bare_name(one.id), partial(_syllables, one))

    def __contains__(self, file_id: str) -> bool:
        return bare_name(file_id) in self._reading

    def __call__(self, file_id: str) -> list[Tier]:
        """The tiers of a recording; none where it has no reference. Raises UserError where they cannot be read."""
        read = self._reading.get(bare_name(file_id))
        return [] if read is None else read()


def _syllables(reference: Reference) -> list[Tier]:
    times = zip(reference.syllables.tolist(), reference.labels, strict=True)
    return [Tier("syllables", True, tuple((start, end, label) for (start, end), label in times))]
