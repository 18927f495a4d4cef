"""`sdhubert cluster`: segments in, a quantizer out."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sdhubert_ray.cli.console import console, log_as, note
from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import DEVICES, ENGINES, Address, LogFormat, Overwrite, choose_address
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.running import ended_early, waiting
from sdhubert_ray.cli.targets import JsonFile, check_figures, write_figures

if TYPE_CHECKING:
    from sdhubert_ray.clustering.planning import ClusterJob
    from sdhubert_ray.clustering.running import Clustered


_COUNTED = {"sample": "lots", "k-means": "steps", "ward": ""}
"""What is counted of each phase."""


def cluster(
    context: typer.Context,
    segments: Annotated[str, typer.Argument(metavar="SEGMENTS", help="An output of `sdhubert segment`.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="A folder or URI: new, or one to resume.")],
    n_clusters: Annotated[int, typer.Option(help="Centers of k-means.")] = 16384,
    n_units: Annotated[int, typer.Option(help="Units that Ward's method reduces the centers to.")] = 4096,
    seed: Annotated[int, typer.Option(help="Of the sample and the first centers.")] = 0,
    max_vectors: Annotated[
        int | None, typer.Option(help="Syllables to be sampled at most (default: 256 for each cluster).")
    ] = None,
    max_iterations: Annotated[int, typer.Option(help="Steps of k-means at most.", rich_help_panel=MORE)] = 100,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Centers that move by no more than this part of the variance have converged.", rich_help_panel=MORE
        ),
    ] = 1e-4,
    device: Annotated[str, typer.Option(autocompletion=DEVICES, help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Workers on Ray (default: one per GPU, or one per node with all its CPUs).", rich_help_panel=MORE
        ),
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(
            help="Memory of a worker, GiB (default: what is free, or its node's share).", rich_help_panel=MORE
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            autocompletion=ENGINES,
            help="local (this process), ray, or auto: ray from 4 GiB, of the table or the sample.",
        ),
    ] = "auto",
    address: Address = None,
    json_file: JsonFile = None,
    sklearn: Annotated[
        bool, typer.Option("--sklearn", help="Also write km_K.pt (joblib) and km_KtoU.npy, as the original has them.")
    ] = False,
    overwrite: Overwrite = False,
    log_format: LogFormat = "text",
) -> None:
    """Cluster syllables into units: k-means over a sample of their features, then Ward's reduction of the centers.

    Run again, it goes on from its last step. The result depends on the segments, these options and the seed alone.
    """
    log_as(log_format)
    if json_file:
        check_figures(json_file)
    from sdhubert_ray.clustering.options import ClusterOptions, Workers
    from sdhubert_ray.clustering.planning import prepare_clustering

    with waiting("planning"):
        job = prepare_clustering(
            segments,
            output,
            ClusterOptions(n_clusters, n_units, seed, max_vectors, max_iterations, tolerance),
            Workers(workers, memory_gib, device),
            engine=engine,
            address=choose_address(context, engine, address),
            sklearn=sklearn,
            overwrite=overwrite,
        )
    _print_found(job, segments)
    done = _run(job)
    _print_quantizer(job, done)
    if json_file and done.quantizer is not None:
        figures = {"output": job.output, "seconds": done.seconds, "files": done.files, "notes": done.notes}
        write_figures(json_file, "cluster", {**figures, "quantizer": done.quantizer.card})


def _print_found(job: "ClusterJob", segments: str) -> None:
    source = job.source
    print(
        f"{source.num_vectors} syllables of width {source.width}, {job.sample_size} to be sampled; engine {job.engine}"
    )
    if source.rows_left:
        note(f"note: {source.rows_left} rows of {segments} are not done yet, and are left out")
    if source.rows_failed:
        note(f"note: {source.rows_failed} rows of {segments} are unreadable, missing or failed, and have no syllables")
    for line in job.notes:
        note(f"note: {line}")
    if job.finished:
        print(f"{job.output} holds this quantizer already")
    elif job.resumes:
        print(f"{job.output} was begun by an earlier run, which this one goes on with")


def _run(job: "ClusterJob") -> "Clustered":
    from sdhubert_ray.clustering.running import run_clustering

    with ended_early(), progress() as shown:
        phase = shown.begin(Phase("beginning"))

        def advance(name: str, done: int, total: int, value: float | None) -> None:
            nonlocal phase
            if phase.title != name:
                phase = shown.begin(Phase(name, _COUNTED[name], total, done))
            phase.update(done, total, "" if value is None else f"inertia per vector {value:.6g}")

        return run_clustering(job, advance)


def _print_quantizer(job: "ClusterJob", done: "Clustered") -> None:
    for line in done.notes:
        note(f"note: {line}")
    if done.quantizer is None:
        return
    card = done.quantizer.card
    ended = "converged" if card["converged"] else "all that are allowed"
    table = Table(show_header=False, box=None)
    table.add_row("syllables", f"{job.source.num_vectors}, {card['num_vectors']} of them sampled")
    table.add_row("k-means", f"{card['iterations']} steps ({ended}), {card['reseeded']} empty clusters seeded anew")
    table.add_row("inertia per vector", f"{card['inertia_per_vector']:.6g}")
    table.add_row("units", f"{card['n_units']} of {card['n_clusters']} clusters")
    if done.seconds:
        table.add_row("this run", ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in done.seconds.items()))
    table.add_row("quantizer", job.output)
    for uri in done.files[-2:] if job.sklearn else ():
        table.add_row("", uri)
    console.print(table, soft_wrap=True)
