"""The fenced code of a page: what docs/tools/run_pages.py runs, what tests look at.

A block in `bash` or `python` is run by `make docs-check`. One that cannot be (it needs a cluster, a bucket, hours) says
so to readers and to the check alike, in its title:

    ```bash title="Not run by the checks: needs a cluster"
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NOT_RUN = "Not run by the checks: "
FROM_NOTHING = "quickstart.md"
"""The page that fetches the demo's recordings itself; all others find them in speech/."""
_RUN_LANGUAGES = ("bash", "python")

_FENCE = re.compile(r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?[^\n]*$')


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: its name, such as `units.md`.
        line: of its first line of code, from 1.
        language: `bash`, `python`, `text` ..., or empty.
        title: or empty.
        code: its lines, without the indent of the fence.
    """

    page: str
    line: int
    language: str
    title: str
    code: str

    @property
    def is_code(self) -> bool:
        """It is code that can be run."""
        return self.language in _RUN_LANGUAGES

    @property
    def why_not(self) -> str | None:
        """Why the checks do not run it; None: they do, or it is no code."""
        return self.title.removeprefix(NOT_RUN) if self.title.startswith(NOT_RUN) else None

    @property
    def is_run(self) -> bool:
        """The checks run it."""
        return self.is_code and self.why_not is None


def read_blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file, in order.

    Raises:
        ValueError: a fence is not closed.
    """
    lines = enumerate(path.read_text().splitlines(), start=1)
    for number, line in lines:
        opened = _FENCE.match(line)
        if opened is None:
            continue
        indent, code = opened["indent"], []
        for _, inner in lines:
            if inner.rstrip() == f"{indent}```":
                break
            code.append(inner.removeprefix(indent))
        else:
            raise ValueError(f"{path}, line {number}: this block is not closed")
        yield Block(path.name, number + 1, opened["language"], opened["title"] or "", "\n".join(code) + "\n")


def commands_of(block: Block, name: str = "sdhubert") -> Iterator[str]:
    """The command lines of a bash block that begin with `name`, continued lines joined, comments left out."""
    for line in block.code.replace("\\\n", " ").splitlines():
        bare = line.partition(" #")[0].strip()
        if bare.startswith(f"{name} "):
            yield bare
