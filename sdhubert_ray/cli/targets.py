"""Files that a command writes: refused, before its work, where they would be lost or land in a folder mistyped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from sdhubert_ray.cli.console import print_json
from sdhubert_ray.errors import UserError

JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write all figures here: a file or URI, or - for standard output."),
]
STDOUT = "-"
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]


def check_file(target: str, overwrite: bool, ending: str = "") -> None:
    """Look at a file before it is written.

    Args:
        target: its path or URI.
        overwrite: it may be replaced.
        ending: its name has to end so, if it matters.

    Raises:
        UserError: it is a folder or has another ending, there is one already, or its folder is not there.
        TransientError: the store could not be reached.
    """
    from sdhubert_ray import storage

    if storage.is_folder(target):
        raise UserError(f"{target} is a folder; name a file{ending and ' that ends with '}{ending}")
    if ending and PurePosixPath(target).suffix.lower() != ending:
        raise UserError(f"{target} does not end with {ending}; name a file that does")
    folder = Path(target.removeprefix("file://")).parent
    if storage.is_local(target) and not folder.is_dir():
        raise UserError(f"there is no folder {folder} to write {target} into; make it, or correct the name")
    if not overwrite and storage.exists(target):
        raise UserError(f"{target} is there already; name another file, or --overwrite it")


def check_folder(target: str, names: Sequence[str], overwrite: bool) -> None:
    """Look at a folder before files are written into it.

    Args:
        target: its path or URI; it need not be there.
        names: of the files.
        overwrite: they may be replaced.

    Raises:
        UserError: it is a file, one of the files is there already, or the folder that it is to lie in is not there.
        TransientError: the store could not be reached.
    """
    from sdhubert_ray import storage

    folder = Path(target.removeprefix("file://"))
    if storage.is_local(target) and not folder.parent.is_dir():
        raise UserError(f"there is no folder {folder.parent} to write {target} into; make it, or correct the name")
    if storage.exists(target) and not storage.is_folder(target):
        raise UserError(f"{target} is a file; name a folder")
    taken = [name for name in names if storage.exists(storage.join(target, name))]
    if taken and not overwrite:
        raise UserError(f"{target} holds {taken[0]} already; name another folder, or --overwrite it")


def check_figures(target: str) -> None:
    """Look at a file of figures before it is written: it may replace one of figures, and nothing else.

    Raises:
        UserError: as `check_file`, or there is another file.
        TransientError: the store could not be reached.
    """
    if target == STDOUT:
        return
    from sdhubert_ray import storage

    check_file(target, True)
    try:
        before = storage.read_json(target)
    except ValueError:
        before = {}
    if before is not None and not {"metric", "sdhubert_ray"} <= before.keys():
        raise UserError(f"{target} is there already and holds no figures; name another file")


def write_figures(target: str, metric: str, figures: Mapping[str, object]) -> None:
    """Write figures as JSON, or print them.

    Args:
        target: of --json.
        metric: what they are of.
        figures: what they are.

    Raises:
        UserError, TransientError: they cannot be written.
    """
    from importlib.metadata import version

    from sdhubert_ray import storage

    text = json.dumps(
        {"metric": metric, "sdhubert_ray": version("sdhubert_ray"), **figures}, indent=1, ensure_ascii=False
    )
    if target == STDOUT:
        print_json(text)
    else:
        storage.put(target, text.encode() + b"\n")
