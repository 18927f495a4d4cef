"""Options that several commands have, and what they amount to."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sdhubert_ray.cli.help import MORE
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.corpus import Selection


def one_of(*names: str) -> Callable[[str], list[str]]:
    """What a shell completes the value of an option to."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


CHECKPOINTS = one_of("sdhubert_base", "bundled")
DEVICES = one_of("auto", "cpu", "cuda")
DTYPES = one_of("float32", "bfloat16", "float16", "auto")
ENGINES = one_of("auto", "local", "ray")
PRESETS = one_of(
    "readme",
    "paper",
    "sd-hubert",
    "hubert",
    "sylber",
    "sylboost-8.33",
    "sylboost-6.25",
    "sylboost-5.0",
    "vg-hubert",
    "zerosyl",
)
MISSING = one_of("error", "skip", "empty")

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT...",
        help="Files, folders, globs, tar or Parquet shards, manifests; any URI; - is a list on standard input.",
    ),
]
Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="A folder or URI: new, or one to resume.")]
ConfigFile = Annotated[str | None, typer.Option(help="A YAML file of the same keys.", rich_help_panel=MORE)]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        autocompletion=one_of("parquet", "files", "textgrid", "csv"),
        help="parquet (always written), files, textgrid, csv; may be repeated.",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=VALUE", help="Only these rows of a manifest; may be repeated.", rich_help_panel=MORE),
]
Limit = Annotated[int | None, typer.Option(min=1, help="A sample of so many recordings.")]
Split = Annotated[
    list[str] | None,
    typer.Option(
        help="Only this folder of LibriSpeech's layout, such as test-clean; may be repeated.", rich_help_panel=MORE
    ),
]
EngineName = Annotated[
    str,
    typer.Option(autocompletion=ENGINES, help="local (here), ray, or auto: ray from 10 min of audio."),
]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="Of a Ray cluster; without one Ray starts here.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew where another run has been.")]
Foreign = Annotated[
    bool,
    typer.Option(
        "--foreign-quantizer",
        help="Take one made from features of another checkpoint or layer.",
        rich_help_panel=MORE,
    ),
]
LogFormat = Annotated[
    str,
    typer.Option(
        autocompletion=one_of("text", "json"),
        help="text (default), or json: a line per event, with the run's id.",
        rich_help_panel=MORE,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(metavar="HZ", help="Syllables per second of audio: the segmenter is tuned to it on a sample."),
]
Rename = Annotated[
    str | None,
    typer.Option(
        metavar="OLD=NEW",
        help="How the names of references begin, and what ids of recordings have instead; either may be empty: "
        "test-other/= for references named from a folder above.",
        rich_help_panel=MORE,
    ),
]


_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def split_arguments(first: str, second: str, further: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """The words INPUT... OUTPUT KEY=VALUE... as inputs, output, and overrides.

    Args:
        first: an input.
        second: the output, if no path follows.
        further: more paths, then overrides; a path that looks like one is written with `./` before it.
    """
    places = (number for number, word in enumerate(further) if _OVERRIDE.match(word))
    begin = next(places, len(further))
    paths = [first, second, *further[:begin]]
    return paths[:-1], paths[-1], [*further[begin:]]


def read_piped(inputs: Sequence[str]) -> list[str]:
    """The list on standard input, where `-` is an input; else nothing. Raises UserError."""
    from sdhubert_ray.corpus import STANDARD_INPUT, read_list

    if STANDARD_INPUT not in inputs:
        return []
    if sys.stdin.isatty():
        raise UserError(
            "input - is a list on standard input, which is a terminal; pipe one in: find ... | sdhubert ..."
        )
    return read_list(sys.stdin.buffer)


def split_rename(rename: str | None) -> tuple[str, str]:
    """OLD and NEW of --rename, both empty without it. Raises UserError."""
    old, mark, new = (rename or "=").partition("=")
    if not mark:
        raise UserError(f"--rename is {rename!r}; it has to be OLD=NEW, such as test-other/=")
    return old, new


def choose_address(context: typer.Context, engine: str, address: str | None) -> str | None:
    """The cluster that is meant: $RAY_ADDRESS, set for other work too, does not contradict the local engine."""
    source = context.get_parameter_source("address")
    from_environment = source is not None and source.name == "ENVIRONMENT"
    return None if engine == "local" and from_environment else address


def select(where: list[str] | None, limit: int | None, split: list[str] | None) -> "Selection":
    """The recordings that --where, --limit and --split ask for. Raises UserError."""
    from sdhubert_ray.corpus import Selection

    return Selection(where=tuple(where or ()), limit=limit, splits=tuple(split or ()))
