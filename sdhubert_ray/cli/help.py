"""Commands whose --help fits a screen and ends with two examples; --help-all tells of all options."""

import contextlib
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sdhubert_ray.cli.console import choose_manner, speaking

if TYPE_CHECKING:  # what typer has of click
    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter

MORE = "More options"
"""The panel of options that few need: --help names them, and --help-all tells what they are for."""
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Of all commands."""
_ALL = "sdhubert_ray.help_all"


def _tell_all(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[_ALL] = True
        print(context.get_help())
        raise typer.Exit


def _be_quiet(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        choose_manner(quiet=True, debug=False)


def _debug(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        choose_manner(quiet=False, debug=True)


def _of_all(
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            callback=_be_quiet,
            expose_value=False,
            help="Print only warnings, errors and the JSON asked for.",
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", callback=_debug, expose_value=False, help="Show traces, and what Ray logs.")
    ] = False,
    help_all: Annotated[
        bool,
        typer.Option("--help-all", callback=_tell_all, expose_value=False, is_eager=True, help="Show all options."),
    ] = False,
) -> None:
    """The options that each command has."""


def _common_params() -> "list[Parameter]":
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_of_all)
    return typer.main.get_command(carrier).params


_COMMON = _common_params()


class Command(TyperCommand):
    """A command; its epilog is its examples, one a line."""

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """With the options that each command has."""
        *own, last = super().get_params(ctx)  # --help
        return [*own, *(param for param in _COMMON if param.name != "help_all" or any(map(_is_rare, own))), last]

    def invoke(self, ctx: "Context") -> Any:  # noqa: ANN401 - as click has it
        """Run it; with `--json -` standard output is for JSON, and a `--json` without a file is all that is printed."""
        with contextlib.nullcontext() if ctx.params.get("as_json") else speaking(ctx.params.get("json_file") == "-"):
            return super().invoke(ctx)

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Arguments and options; those that few need only by their names."""
        parts: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], MORE: []}
        names: list[str] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            part = MORE if _is_rare(param) else "Arguments" if param.param_type_name == "argument" else "Options"
            parts[part].append(record)
            names += [max(param.opts, key=len)] if part == MORE else []
        shown = ctx.meta.get(_ALL, False)
        for title, records in parts.items():
            if records and (shown or title != MORE):
                with formatter.section(title):
                    formatter.write_dl(records)
        if names and not shown:
            formatter.write("\n")
            formatter.write(_fill(f"{MORE} (--help-all): {', '.join(names)}", formatter.width))

    def format_epilog(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """The examples."""
        _write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands; its epilog is its examples, one a line."""

    def format_epilog(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """The examples."""
        _write_examples(self.epilog, formatter)


def _is_rare(param: "Parameter") -> bool:
    return getattr(param, "rich_help_panel", None) == MORE


def _fill(text: str, width: int) -> str:
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines) + "\n"


def _write_examples(examples: str | None, formatter: "HelpFormatter") -> None:
    if examples:
        formatter.write("\nExamples:\n")
        formatter.write("".join(f"  {line}\n" for line in examples.strip().splitlines()))
