"""A comparison of a segmenter without an encoder and two checkpoints of one preset, as the command makes it."""

import json
import shutil
from pathlib import Path

import pytest
from commands import sdhubert
from foreign import make_sylber

NAMES = ("synth_1", "synth_2", "synth_4")
"""What is tested; shifts are chosen on the others of the golden recordings."""


@pytest.fixture(scope="session")
def divided(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of references of the golden recordings, test.json and validation.json, and triplets of them."""
    folder = tmp_path_factory.mktemp("divided")
    every = json.loads((golden / "audio/syllables.json").read_text())
    for name, wanted in (("test", True), ("validation", False)):
        some = {key: value for key, value in every.items() if (key in NAMES) == wanted}
        (folder / f"{name}.json").write_text(json.dumps(some))
    clips = [{"file_name": f"{name}.flac", "segment": [0.0, 1.5], "text": name} for name in NAMES]
    turns = [clips[start:] + clips[:start] for start in range(3)]
    (folder / "triplets.json").write_text(
        json.dumps({str(n): dict(zip("XPN", turn, strict=True)) for n, turn in enumerate(turns)})
    )
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints of Sylber's layout with random weights."""
    folder = tmp_path_factory.mktemp("made")
    paths = []
    for seed, name in enumerate(("one.ckpt", "two.ckpt")):
        path, _ = make_sylber(folder, seed)
        paths.append(path.rename(folder / name))
    return paths


@pytest.fixture(scope="session")
def arguments(golden: Path, divided: Path, made: list[Path]) -> list[str | Path]:
    """Of the command, but for --output."""
    systems = f"uniform,{','.join(f'sylber={path}' for path in made)}"
    tuned = ["--references", divided / "test.json", "--tune", divided / "validation.json", "--n-units", "8"]
    triplets = ["--triplets", divided / "triplets.json", "--triplets-root", golden / "audio"]
    return [golden / "audio", "--systems", systems, *tuned, *triplets]


@pytest.fixture(scope="session")
def compared(arguments: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output; not to be written into."""
    output = tmp_path_factory.mktemp("compared") / "out"
    done = sdhubert("compare", *arguments, "-o", output)
    (output.parent / "said.txt").write_text(done.stdout)
    return output


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(compared, tmp_path / "copied"))
