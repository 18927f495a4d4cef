"""The reference of commands, from their parser: what `--help` says of each, as a page."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from typer.core import TyperGroup
from typer.main import get_command

from sdhubert_ray.cli import app

if TYPE_CHECKING:
    from typer._click import Command

NAME = "sdhubert"
_HEAD = """\
# Commands

What `sdhubert COMMAND --help` says, for all of them; this page is made from the parser. Options of the segmentation
itself are keys, `KEY=VALUE` on the command line: [all of them](options.md). Exit codes: 0 fine; 1 not finished, the
same command goes on; 2 wrong usage, nothing was written; 3 some recordings could not be read.
"""
_SPECIAL = re.compile(r"([\\*_<>\[\]|])")


def all_commands() -> "Iterator[tuple[str, Command]]":
    """Each command with its full name, such as `sdhubert evaluate purity`, in the order of `--help`."""
    yield from _commands(NAME, get_command(app))


def _commands(name: str, command: "Command") -> "Iterator[tuple[str, Command]]":
    yield name, command
    if isinstance(command, TyperGroup):
        for word, inner in command.commands.items():
            yield from _commands(f"{name} {word}", inner)


def write_page() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *(_section(name, command) for name, command in all_commands())])


def _section(name: str, command: "Command") -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    lines = [f"## {name}", "", *_paragraphs(command.help or ""), "```text", context.get_usage(), "```", ""]
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    lines += ["| | |", "|---|---|", *(f"| `{words}` | {_escape(told)} |" for words, told in records), ""]
    if command.epilog:
        lines += ["```text", command.epilog.strip(), "```", ""]
    return "\n".join(lines)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        yield from (_escape(paragraph), "")


def _escape(text: str) -> str:
    """Plain text as Markdown shows it; what stands in backticks stays as it is."""
    parts = " ".join(text.split()).split("`")
    shown = [part if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts)]
    return "`".join(shown)
