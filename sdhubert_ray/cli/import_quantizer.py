"""`sdhubert import-quantizer`: the original's k-means and reducer in, a quantizer out."""

from typing import Annotated

import typer

from sdhubert_ray.errors import UserError


def import_quantizer(
    km: Annotated[str, typer.Argument(metavar="KM.pt", help="The joblib pickle of a scikit-learn k-means; any URI.")],
    reducer: Annotated[str, typer.Argument(metavar="REDUCER.npy", help="The unit of each of its centers; any URI.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The folder or URI of the quantizer.")],
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read the pickle, which executes whatever its author put in.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a quantizer that is there.")] = False,
) -> None:
    """Make a quantizer from the pair of files that the original system clusters into."""
    from sdhubert_ray import storage
    from sdhubert_ray.units.quantizer import check_place, read_original

    target = storage.absolute(output).rstrip("/")
    if check_place(target, begun=False) and not overwrite:
        raise UserError(f"{output} holds a quantizer already; choose another folder, or --overwrite it")
    quantizer = read_original(km, reducer, trust_pickle)
    quantizer.save(target)
    print(f"{len(quantizer.centers)} clusters of width {quantizer.width}, {quantizer.num_units} units: {target}")
