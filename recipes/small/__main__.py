"""Make the bundled checkpoint: prepare speech, train, choose thresholds, deliver. The same command goes on."""

import argparse
import hashlib
import json
import logging
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from recipes.small.options import ChooseOptions, RecipeConfig
from sdhubert_ray import storage
from sdhubert_ray.composing import compose, read_parts
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.output import Lease
from sdhubert_ray.runs.session import IncompleteRunError

_HERE = Path(__file__).parent
NAME = "sdhubert_small"
RECORD, TARGET, UNTUNED = "recipe.json", f"{NAME}.pt", "untuned.pt"
_WRITTEN = (TARGET, UNTUNED, "speech", "state.pt", "train")
_OF_NO_RESULT = ("readers", "checkpoint_every")
"""Options of training that change nothing but its speed."""


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
        UserError: an input or option cannot be used, or `out` holds something else.
        BusyError: another process is at work there.
        IncompleteRunError: training could not finish; the same command goes on.
    """
    from recipes.small.prepare import list_recordings

    root = manifest.rpartition("/")[0] if "/" in manifest else "."
    upstream = json.loads((_HERE / "encoder.json").read_text())
    made = {"manifest": _digest(manifest), "encoder": upstream, **asdict(config)}
    del made["choose"]
    made["train"] = {name: value for name, value in made["train"].items() if name not in _OF_NO_RESULT}
    made, chosen = json.loads(json.dumps([made, asdict(config.choose)]))  # as they are when they are read again
    if _begun(out, made) is None:
        list_recordings(manifest, config.prepare.split)
    _check_choice(root, config.choose, upstream["num_hidden_layers"])
    lease = Lease(str(out), uuid.uuid4().hex[:12])
    try:
        if (out / TARGET).exists() and _begun(out, made) == chosen:
            print(f"{out / TARGET} is there already")
            return
        _note(out, made, {})
        _make(manifest, root, out, config, upstream)
        _note(out, made, chosen)
    finally:
        lease.release()


def _make(manifest: str, root: str, out: Path, config: RecipeConfig, upstream: dict[str, Any]) -> None:
    # Only here: torch and Ray take seconds to import, and whoever is refused does without.
    from recipes.small.choose import choose, deliver
    from recipes.small.prepare import prepare
    from recipes.small.train import train
    from sdhubert_ray.encoder import fetch_checkpoint

    prepare(manifest, out / "speech", config.prepare, config.seed)
    weights = train(upstream, out / "speech", out, config.train, config.seed)
    storage.put(str(out / UNTUNED), deliver(NAME, upstream, weights, None))
    tuned = choose(fetch_checkpoint(str(out / UNTUNED)), root, config.choose)
    for name, shift, scores in zip(config.choose.references, tuned.shifts, tuned.scores, strict=True):
        print(f"{name}: F1 {scores.f1:.4f}, R-value {scores.r_value:.4f}, shift {1000 * shift:.0f} ms")
    data = deliver(NAME, upstream, weights, tuned)
    storage.put(str(out / TARGET), data)
    print(f"wrote {out / TARGET} ({len(data) / 1e6:.1f} MB)")


def _check_choice(root: str, options: ChooseOptions, layers: int) -> None:
    """Refuse what `choose` cannot use now, not after hours of training."""
    if max(options.layers) > layers:
        raise UserError(f"choose.layers has {max(options.layers)}, but the encoder has {layers} layers")
    for name in options.references:
        for reference in load_references(storage.join(root, name)):
            if not storage.exists(storage.join(root, reference.file_name)):
                raise UserError(f"{name} names {reference.file_name}, which is not in {root}")


def _digest(manifest: str) -> str:
    """Of a manifest; of a folder or a glob, whose files are not read here, of its name."""
    is_file = storage.exists(manifest) and not storage.is_folder(manifest)
    return hashlib.sha256(storage.read_bytes(manifest) if is_file else manifest.encode()).hexdigest()


def _begun(out: Path, made: dict[str, Any]) -> dict[str, Any] | None:
    """What the checkpoint in a folder was chosen with, empty before it is there; None where nothing is begun.

    Raises:
        UserError: the folder holds something else, or was begun with other options.
    """
    try:
        record = storage.read_json(str(out / RECORD))
        of_another = record is not None and (record.get("recipe") != NAME or not isinstance(record["chosen"], dict))
    except (ValueError, KeyError):
        of_another, record = True, {}
    if of_another:
        raise UserError(f"{out / RECORD} is no record of this recipe; name another folder")
    if record is None:
        for name in _WRITTEN:
            if (out / name).exists():
                raise UserError(f"{out / name} is there, and no {RECORD} tells what it is of; name another folder")
        return None
    if record.get("made") != made:
        raise UserError(
            f"{out} was begun with another manifest or other options, see {out / RECORD}; name another folder"
        )
    chosen: dict[str, Any] = record["chosen"]
    return chosen


def _note(out: Path, made: dict[str, Any], chosen: dict[str, Any]) -> None:
    record = {"recipe": NAME, "made": made, "chosen": chosen}
    storage.put(str(out / RECORD), json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
