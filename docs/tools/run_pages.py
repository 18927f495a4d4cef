"""Run what the pages of docs/ show, as a reader would: `make docs-check`, or run_pages.py [PAGE.md ...].

A page has a folder of its own, in which speech/ holds the recordings of the demo; its blocks in bash and python are run
in order. Those whose title says that they are not run are listed at the end, with the reason. `--pictures` puts what a
page draws, and shows from images/, into docs/images/.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blocks import FROM_NOTHING, Block, read_blocks

DOCS = Path(__file__).parents[1]
DEMO = DOCS.parent / "sdhubert_ray" / "assets" / "demo"
AT_ONCE = 2
_SHELL = ("bash", "-euo", "pipefail", "-c")
_LONGEST_SECONDS = 600
_PICTURE = re.compile(r"\]\(images/([^)]+)\)")


def run_page(page: Path, pictures: bool) -> list[str]:
    """Run the blocks of a page, up to the first that fails; what failed, in words.

    Args:
        page: a Markdown file.
        pictures: take the pictures that it draws.
    """
    blocks = [block for block in read_blocks(page) if block.is_run]
    with tempfile.TemporaryDirectory(prefix="page") as made:
        folder = Path(made)
        if page.name != FROM_NOTHING:
            shutil.copytree(DEMO, folder / "speech")
        for block in blocks:
            began = time.monotonic()
            failure = _run(block, folder)
            told = "FAILED" if failure else "ok"
            print(f"{block.page}:{block.line} {told}, {time.monotonic() - began:.1f} s", flush=True)
            if failure:
                return [f"{block.page}:{block.line}\n{block.code}{failure}"]
        for name in _PICTURE.findall(page.read_text()) if pictures else ():
            if (folder / name).exists():
                shutil.copy(folder / name, DOCS / "images")
    return []


def _run(block: Block, folder: Path) -> str | None:
    """What a block has said, if it failed."""
    command = [*_SHELL, block.code] if block.language == "bash" else [sys.executable, "-c", block.code]
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it has not ended after {_LONGEST_SECONDS} s\n"
    return f"{done.stdout}{done.stderr}(exit code {done.returncode})\n" if done.returncode else None


def main(arguments: Sequence[str]) -> int:
    """Run pages, and tell what failed and what was left out; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE.md", help="of docs/; all without")
    parser.add_argument("--pictures", action="store_true", help="take docs/images/ from what the pages draw")
    given = parser.parse_args(arguments)
    pages = [DOCS / name for name in given.pages] or sorted(DOCS.glob("*.md"))
    left_out = [block for page in pages for block in read_blocks(page) if block.why_not]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [text for found in pool.map(lambda page: run_page(page, given.pictures), pages) for text in found]
    for block in left_out:
        print(f"{block.page}:{block.line} not run: {block.why_not}")
    for text in failures:
        print(f"\nFAILED {text}")
    print(f"{len(pages)} pages, {len(failures)} failed, {len(left_out)} blocks not run")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
