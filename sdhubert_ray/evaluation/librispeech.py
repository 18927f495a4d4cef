"""The LibriSpeech benchmark: from a corpus and a checkpoint to the paper's table, by commands that resume."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.evaluation.triplets import read_triplets

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class BenchmarkOptions:
    """A benchmark.

    Attributes:
        root: the corpus, a folder or URI.
        output: the folder of all that is made.
        checkpoint: its name, path or URI.
        preset: of the segmentation.
        overrides: further options of the segmentation, `key=value`.
        validation_syllables: the reference that the shift is tuned on.
        test_syllables: the reference that is reported.
        train: what is clustered: a split below the root, or a list of relative paths.
        validation: a list of relative paths; none takes the files of its reference.
        test: the same of the test.
        triplets: of the spoken-sentence ABX task, or None.
        n_clusters: centers.
        n_units: units that the centers are reduced to.
        engine: `auto`, `local` or `ray`.
        address: of a Ray cluster, or None.
    """

    root: str
    output: str
    checkpoint: str
    preset: str
    overrides: tuple[str, ...]
    validation_syllables: str
    test_syllables: str
    train: str
    validation: str | None
    test: str | None
    triplets: str | None
    n_clusters: int
    n_units: int
    engine: str
    address: str | None


def list_commands(options: BenchmarkOptions) -> list[list[str]]:
    """The commands of a benchmark, in order, as arguments of `sdhubert`. Nothing is read or written."""
    out, engine = options.output, ["--engine", options.engine]
    if options.address:
        engine += ["--address", options.address]
    segmentation = ["--checkpoint", options.checkpoint, "--preset", options.preset, *engine]
    quantizer = storage.join(out, "quantizer")
    tables = {part: storage.join(out, part) for part in PARTS}

    def segment(part: str) -> list[str]:
        recordings = storage.join(out, f"lists/{part}.jsonl")
        return ["segment", recordings, tables[part], *options.overrides, *segmentation]

    sizes = ["--n-clusters", str(options.n_clusters), "--n-units", str(options.n_units)]
    commands = [
        segment("train"),
        ["cluster", tables["train"], quantizer, *sizes, *engine],
        segment("validation"),
        [*segment("test"), "--quantizer", quantizer],
    ]
    tuning = ["--tune", options.validation_syllables, "--tune-segments", tables["validation"]]
    reference = [tables["test"], options.test_syllables]
    commands.append(["evaluate", "boundary", *reference, *tuning, "--json", storage.join(out, "boundary.json")])
    commands.append(["evaluate", "purity", *reference, "--json", storage.join(out, "purity.json")])
    if options.triplets:
        result = ["--json", storage.join(out, "ssabx.json")]
        embeddings = ["--embedding", "favg", "--embedding", "cls"]
        of_audio = [text for text in options.overrides if text.startswith(("audio.", "resources."))]
        commands.append(
            ["evaluate", "ssabx", options.root, options.triplets, *of_audio, *segmentation, *embeddings, *result]
        )
    return commands


def list_parts(options: BenchmarkOptions) -> dict[str, list[str]]:
    """The relative paths of each part's recordings. Nothing is written.

    Raises:
        UserError: a list or reference that cannot be read, or that holds nothing; parts that share a recording.
    """
    paths = {
        "train": _list_train(options.root, options.train),
        "validation": _list_part(options.validation, options.validation_syllables),
        "test": _list_part(options.test, options.test_syllables),
    }
    for index, part in enumerate(PARTS):
        for other in PARTS[:index]:
            shared = sorted({*paths[part]} & {*paths[other]})
            if shared:
                raise UserError(
                    f"{shared[0]} is in the {other} part and in the {part} part; no recording may be in two"
                )
    _refuse_others(options.output, paths)
    return paths


def write_lists(options: BenchmarkOptions, paths: Mapping[str, Sequence[str]]) -> None:
    """Write what each part holds: OUTPUT/lists/PART.txt, relative paths, and PART.jsonl, a manifest of them."""
    for part in PARTS:
        rows = [
            {"id": path, "uri": storage.join(options.root, path), "split": part, "speaker": _speaker(path)}
            for path in paths[part]
        ]
        folder = storage.join(options.output, "lists")
        storage.put(storage.join(folder, f"{part}.txt"), "".join(f"{path}\n" for path in paths[part]).encode())
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        storage.put(storage.join(folder, f"{part}.jsonl"), lines.encode())


def check_options(options: BenchmarkOptions) -> None:
    """Find mistakes that a later step would find after hours.

    Raises:
        UserError: an option or file that a step refuses.
    """
    from sdhubert_ray.clustering.options import ClusterOptions
    from sdhubert_ray.encoder import fetch_checkpoint
    from sdhubert_ray.runs.config import load_config

    ClusterOptions(options.n_clusters, options.n_units)
    load_config(None, options.overrides, {"preset": options.preset}, {})
    if options.triplets:
        read_triplets(options.triplets, options.root)
    fetch_checkpoint(options.checkpoint)


def _refuse_others(output: str, paths: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError where an earlier benchmark in the output was of other recordings, or a list is none of ours."""
    for part in PARTS:
        uri, manifest = (storage.join(output, f"lists/{part}.{ending}") for ending in ("txt", "jsonl"))
        if not storage.exists(uri) and storage.exists(manifest):
            raise UserError(f"{manifest} is of no benchmark that is known; choose another --output")
        if storage.exists(uri) and storage.read_bytes(uri).decode().splitlines() != list(paths[part]):
            raise UserError(f"{uri} lists other recordings than this benchmark's; choose another --output")


def _list_train(root: str, train: str) -> list[str]:
    """A list's paths, or those of a split's recordings."""
    folder = storage.join(root, train)
    if not storage.is_folder(folder):
        if storage.exists(train):
            return _read_list(train)
        raise UserError(
            f"train is {train!r}, but there is neither a folder {folder} nor a file {train}; name a split below ROOT, "
            "or a list of relative paths"
        )
    paths = [f"{train.strip('/')}/{name}" for name in storage.list_files(folder) if name.endswith(".flac")]
    if not paths:
        raise UserError(f"{folder} holds no .flac files; name another split, or a list of relative paths")
    return paths


def _list_part(path: str | None, references: str) -> list[str]:
    if path is not None:
        return _read_list(path)
    paths = sorted({reference.file_name for reference in load_references(references)})
    bare = next((path for path in paths if not PurePosixPath(path).suffix), None)
    if bare is not None:
        raise UserError(f"{references} names {bare} without its ending; list its recordings by relative paths instead")
    return paths


def _read_list(uri: str) -> list[str]:
    try:
        lines = storage.read_bytes(uri).decode().splitlines()
    except storage.TransientError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list {uri} cannot be read ({error}); it has to hold one relative path per line") from error
    paths = [line.strip() for line in lines if line.strip()]
    if not paths:
        raise UserError(f"list {uri} is empty; it has to hold one relative path per line")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise UserError(f"list {uri} names {path} more than once; leave out one")
    return paths


def _speaker(path: str) -> str | None:
    """The speaker of SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac, or of its last part alone."""
    speaker, separator, rest = PurePosixPath(path).stem.partition("-")
    return speaker if separator and "-" in rest and speaker.isdigit() else None
