"""`sdhubert cluster`: segments in, a quantizer out."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sdhubert_ray.cli.console import console, log_as, logs_are_json, note, progress_bar
from sdhubert_ray.cli.options import Address, LogFormat, Overwrite, choose_address
from sdhubert_ray.cli.running import ended_early

if TYPE_CHECKING:
    from sdhubert_ray.clustering.planning import ClusterJob
    from sdhubert_ray.clustering.running import Clustered


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
    max_iterations: Annotated[int, typer.Option(help="Steps of k-means at most.")] = 100,
    tolerance: Annotated[
        float, typer.Option(help="Centers that move by no more than this part of the variance have converged.")
    ] = 1e-4,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Workers on Ray (default: one per GPU, or one per node with all its CPUs).")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(help="Memory of a worker, GiB (default: what is free, or its node's share).")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local (this process), ray, or auto: ray from 4 GiB, of the table or the sample.")
    ] = "auto",
    address: Address = None,
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
    from sdhubert_ray.clustering.options import ClusterOptions, Workers
    from sdhubert_ray.clustering.planning import prepare_clustering

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

    with progress_bar("{task.description}", "{task.fields[value]}") as bar:
        tasks = {name: bar.add_task(name, total=None, value="", start=False) for name in ("sample", "k-means", "ward")}

        def advance(phase: str, done: int, total: int, value: float | None) -> None:
            shown = "" if value is None else f"inertia per vector {value:.6g}"
            bar.start_task(tasks[phase])
            bar.update(tasks[phase], completed=done, total=total, value=shown)
            if bar.disable and value is not None and not logs_are_json():
                print(f"step {done}: {shown}", file=sys.stderr)

        with ended_early():
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
