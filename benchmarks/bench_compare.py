"""The tables of docs/comparing.md: `sdhubert compare` on the test recordings of TIMIT and of LibriSpeech test-other.

    python benchmarks/bench_compare.py SPEECH_FOLDER OUT [--files N] [--system NAME[=FILE] ...]

SPEECH_FOLDER has manifest.jsonl, with columns `split` and `syllables`, and syllables_{timit,librispeech}_{validation,
test}.json. Compared are the bundled checkpoint, what needs no encoder, and Sylber's network with random weights, which
is noise but for its time and memory; and files of VG-HuBERT, ZeroSyl's WavLM and SylBoost with small random networks in
them, which are noise altogether, and in a table of their own; `--system` adds others. Shifts are chosen on the
validation recordings, units are made of the train split, sentences are those that all speakers of TIMIT say. What is
done in OUT is not done again; OUT/CORPUS/index.html is the page. `--files` takes the first of each part, and of the
train split, to try it out.
"""

import argparse
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from reporting import ROOT, heading, record
from transformers import HubertConfig, HubertModel
from triplets import timit_triplets

sys.path.insert(0, str(ROOT / "tests"))
from foreign import make_sylboost, make_vg_hubert, make_wavlm

SDHUBERT = Path(sys.executable).parent / "sdhubert"
CORPORA = {"timit": "hand", "librispeech": "forced-alignment"}
"""And how their syllables were found, by which the manifest tells them."""
NOISE_LAYERS = 9
SMALL_NOISE = {
    "VG-HuBERT": ("vg-hubert", make_vg_hubert),
    "ZeroSyl": ("zerosyl", make_wavlm),
    "SylBoost 6.25": ("sylboost-6.25", make_sylboost),
}
SMALL = "(small noise)"
N_UNITS = 256


def make_noise(folder: Path) -> list[str]:
    """Random weights in the files of other systems. Returns them as `--systems` takes them."""
    path = folder / "sylber_noise.ckpt"
    if not path.exists():
        make_sylber(path)
    systems = [f"Sylber (noise):sylber={path}"]
    for name, (preset, make) in SMALL_NOISE.items():
        into = folder / f"{preset}_noise"
        into.mkdir(exist_ok=True)
        file = next(into.iterdir(), None) or make(into)[0]
        systems.append(f"{name} {SMALL}:{preset}={file}")
    return systems


def make_sylber(path: Path) -> None:
    """Random weights in the shape and the form of Sylber's."""
    config = json.loads((ROOT / "configs" / "hubert-base-ls960.json").read_text())
    torch.manual_seed(0)
    model = HubertModel(HubertConfig.from_dict({**config, "num_hidden_layers": NOISE_LAYERS}))
    torch.save(model.state_dict(), path)


def write_references(speech: Path, folder: Path, corpus: str, files: int | None) -> set[str]:
    """Write those of both parts, or the first of each. Returns the ids of their recordings."""
    ids: set[str] = set()
    for part in ("validation", "test"):
        every = json.loads((speech / f"syllables_{corpus}_{part}.json").read_text())
        some = dict(itertools.islice(every.items(), files))
        (folder / f"{part}.json").write_text(json.dumps(some))
        ids |= some.keys()
    return ids


def write_manifest(path: Path, rows: Sequence[dict[str, Any]], speech: Path) -> None:
    lines = ({"id": row["id"], "uri": str(speech / row["uri"])} for row in rows)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(speech: Path, out: Path, corpus: str, systems: Sequence[str], files: int | None) -> Path:
    """Compare systems on a corpus. Returns the folder of what was made."""
    given = out / f"{corpus}_given"
    given.mkdir(parents=True, exist_ok=True)
    ids = write_references(speech, given, corpus, files)
    rows = [json.loads(line) for line in (speech / "manifest.jsonl").read_text().splitlines()]
    tested = [row for row in rows if row["id"] in ids and row["syllables"] == CORPORA[corpus]]
    write_manifest(given / "recordings.jsonl", tested, speech)
    train = [row for row in rows if row["split"] == "train"]
    write_manifest(out / "train.jsonl", train[:files], speech)
    for made in out.glob("*/systems/*/train"):  # those of the other corpus are the same
        if not (here := out / corpus / made.relative_to(made.parents[2])).exists():
            shutil.copytree(made, here)
    (given / "triplets.json").write_text(json.dumps(timit_triplets(speech / "timit_nltk", "X")))
    command: list[str | Path] = [SDHUBERT, "compare", given / "recordings.jsonl", "--systems", ",".join(systems)]
    command += ["--references", given / "test.json", "--tune", given / "validation.json", "-o", out / corpus]
    command += ["--train", out / "train.jsonl", "--n-units", str(min(N_UNITS, 8 * files) if files else N_UNITS)]
    command += ["--triplets", given / "triplets.json", "--triplets-root", speech / "timit_nltk"]
    subprocess.run(command, check=True)
    return out / corpus


def markdown(output: Path, small: bool) -> Iterator[str]:
    """The table of the page, whose content is JSON in it, but for its small noise, or of that alone."""
    found = re.search(r'id="data">(.*?)</script>', (output / "index.html").read_text())
    assert found is not None
    table = json.loads(found[1])["tables"][0]
    shown = [place < 2 or (SMALL in title) == small for place, title in enumerate(table["columns"])]
    for number, cells in enumerate([table["columns"], *table["rows"]]):
        yield f"| {' | '.join(itertools.compress(cells, shown))} |"
        if number == 0:
            yield "|---" * sum(shown) + "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("speech", type=Path, metavar="SPEECH_FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--files", type=int, metavar="N", help="the first of each part; all without it")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=FILE", help="as `--systems` takes it")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    systems = ["bundled", "mel-valleys", "energy", "uniform", *make_noise(given.out), *given.system]
    print(heading(), flush=True)
    for corpus in CORPORA:
        output = compare(given.speech.absolute(), given.out, corpus, systems, given.files)
        for small in (False, True):
            print(f"\n{corpus}\n", *markdown(output, small), sep="\n", flush=True)
        for one in json.loads((output / "comparison.json").read_text())["systems"]:
            for protocol, counts in one["boundary"]["protocols"].items():
                record(f"{corpus}, {protocol}, {one['system']['title']}: f1", counts["f1"]["value"], "ratio")
            record(f"{corpus}, {one['system']['title']}: real-time factor", one["real_time_factor"], "s/s")


if __name__ == "__main__":
    main()
