"""Make the bundled checkpoint: prepare speech, train, choose thresholds, deliver. The same command goes on."""

import argparse
import hashlib
import json
import logging
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from recipes.small.choose import ChooseOptions, choose, deliver
from recipes.small.prepare import PrepareOptions, prepare
from recipes.small.train import TrainOptions, train
from sdhubert_ray import storage
from sdhubert_ray.composing import compose, read_parts
from sdhubert_ray.encoder.weights import fetch_checkpoint
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.runs.session import IncompleteRunError

_HERE = Path(__file__).parent
NAME = "sdhubert_small"


@dataclass(frozen=True)
class RecipeConfig:
    """All options of the recipe."""

    seed: int = 0
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    choose: ChooseOptions = field(default_factory=ChooseOptions)


def main() -> None:
    """Read the command line and do what is left."""
    parser = argparse.ArgumentParser(prog="python -m recipes.small", description=__doc__)
    parser.add_argument("manifest", help="of recordings with transcripts; the validation references lie beside it")
    parser.add_argument("out", type=Path, help="folder of the run; what is done there is not done again")
    parser.add_argument("--config", help="a YAML file of options that differ from their defaults")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run(given.manifest, given.out, compose(RecipeConfig, read_parts(given.config, given.overrides, {})))
    except (UserError, OSError) as error:
        _end(error, 2)
    except (BusyError, IncompleteRunError) as error:
        _end(error, 1)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on", 1)


def _end(reason: object, code: int) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(code)


def run(manifest: str, out: Path, config: RecipeConfig) -> None:
    """Do what is left of the recipe in the folder `out`.

    Raises:
        UserError: an input or option cannot be used, or `out` was begun with others.
        IncompleteRunError: training could not finish; the same command goes on.
    """
    root = manifest.rpartition("/")[0] if "/" in manifest else "."
    _check_references(root, config.choose)
    upstream = json.loads((_HERE / "encoder.json").read_text())
    listed = storage.read_bytes(manifest) if storage.exists(manifest) and not storage.is_folder(manifest) else b""
    begun = {"manifest": hashlib.sha256(listed).hexdigest(), "encoder": upstream, "options": asdict(config)}
    _begin(out, json.dumps(begun, indent=1))
    target = out / f"{NAME}.pt"
    if target.exists():
        print(f"{target} is there already")
        return
    prepare(manifest, out / "speech", config.prepare, config.seed)
    weights = train(upstream, out / "speech", out, config.train, config.seed)
    untuned = out / "untuned.pt"
    _write(untuned, deliver(NAME, upstream, weights, None))
    tuned = choose(fetch_checkpoint(str(untuned)), root, config.choose)
    for name, shift, scores in zip(config.choose.references, tuned.shifts, tuned.scores, strict=True):
        print(f"{name}: F1 {scores.f1:.4f}, R-value {scores.r_value:.4f}, shift {1000 * shift:.0f} ms")
    _write(target, deliver(NAME, upstream, weights, tuned))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")


def _check_references(root: str, options: ChooseOptions) -> None:
    """Refuse references or recordings that are not there now, not after hours of training."""
    for name in options.references:
        for reference in load_references(storage.join(root, name)):
            if not storage.exists(storage.join(root, reference.file_name)):
                raise UserError(f"{name} names {reference.file_name}, which is not in {root}")


def _begin(out: Path, config: str) -> None:
    """Note what the run is made with. What has been made with something else is not gone on with."""
    record = out / "recipe.json"
    if (out / "speech").exists() and record.exists() and record.read_text() != config:
        raise UserError(f"{out} was begun with another manifest or other options, see {record}; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    _write(record, config.encode())


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.rename(path)


if __name__ == "__main__":
    main()
