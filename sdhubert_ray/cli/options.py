"""Options that several commands have."""

from typing import Annotated

import typer

LogFormat = Annotated[str, typer.Option(help="text (default), or json: a line per event, with the run's id.")]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="Of a Ray cluster; without one Ray starts here.")
]
Where = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only these rows of a manifest; may be repeated.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="A sample of so many recordings.")]
Split = Annotated[
    list[str] | None,
    typer.Option(help="Only this folder of LibriSpeech's layout, such as test-clean; may be repeated."),
]


def choose_address(context: typer.Context, engine: str, address: str | None) -> str | None:
    """The cluster that is meant: $RAY_ADDRESS, set for other work too, does not contradict the local engine."""
    source = context.get_parameter_source("address")
    from_environment = source is not None and source.name == "ENVIRONMENT"
    return None if engine == "local" and from_environment else address
