"""`sdhubert cite`: whose a preset is."""

from typing import Annotated

import typer

from sdhubert_ray.cli.options import PRESETS


def cite(
    preset: Annotated[str, typer.Argument(autocompletion=PRESETS, metavar="PRESET", help="As segment takes it.")],
) -> None:
    """Print the paper of a preset in BibTeX, where its weights are, and what is not as in its public code.

    All but the entry are comments of BibTeX.
    """
    from sdhubert_ray.speech.presets import get_preset
    from sdhubert_ray.speech.systems import SYSTEMS

    get_preset(preset)
    system = SYSTEMS[preset]
    print(system.citation)
    print(f"% Weights: {system.weights}")
    for deviation in system.deviations:
        print(f"% Not as published: {deviation}")
