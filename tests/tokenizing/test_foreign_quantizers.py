"""A quantizer that was made from other features than those it would give units to: as wide, and of no meaning."""

import json
from pathlib import Path

import pytest
import torch
from commands import complaint, sdhubert

from sdhubert_ray.output import read_run
from sdhubert_ray.units import Quantizer

pytestmark = pytest.mark.seconds
NAMED = "features of another {} than those of"


@pytest.fixture(scope="module")
def made(golden: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a checkpoint, of one as wide, of another layer and another pooling, and a quantizer of each."""
    folder = tmp_path_factory.mktemp("made")
    content = torch.load(tiny_checkpoint, weights_only=True)
    bias = next(key for key in content["state_dict"] if key.endswith("bias"))
    content["state_dict"][bias] += 0.5
    torch.save(content, folder / "checkpoint.pt")
    (folder / "upstream").mkdir()
    (folder / "upstream/config.json").write_bytes((tiny_checkpoint.parent / "upstream/config.json").read_bytes())
    ways = {
        "ours": [tiny_checkpoint],
        "checkpoint": [folder / "checkpoint.pt"],
        "layer": [tiny_checkpoint, "encoder.layer=5"],
        "kind": [tiny_checkpoint, "syllables.pooling=unit"],
    }
    for name, way in ways.items():
        command = ["segment", golden / "audio", folder / name, "--engine", "local", "--frame-features", "float32"]
        sdhubert(*command, "--checkpoint", *way)
        sizes = ["--n-clusters", "4", "--n-units", "2", "--device", "cpu"]
        sdhubert("cluster", folder / name, folder / f"q-{name}", *sizes)
    return folder


@pytest.mark.parametrize("other", ["checkpoint", "layer", "kind"])
def test_it_is_refused_unless_it_is_meant(
    other: str, made: Path, golden: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    quantizer = made / f"q-{other}"
    segment = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", tiny_checkpoint, "--engine", "local"]
    commands = {
        "tokenize": ["tokenize", made / "ours", tmp_path / "units", "--quantizer", quantizer],
        "evaluate": ["evaluate", "purity", made / "ours", golden / "audio/syllables.json", "--quantizer", quantizer],
        "segment": [*segment, "--quantizer", quantizer],
        "resegment": ["resegment", made / "ours", tmp_path / "again", f"quantizer={quantizer}"],
    }
    for name, command in commands.items():
        refused = sdhubert(*command, expect=2)
        assert NAMED.format(other) in complaint(refused), name
        assert "--foreign-quantizer" in complaint(refused), name
    assert list(tmp_path.iterdir()) == []
    for name, command in commands.items():
        meant = "--foreign-quantizer" if name in ("tokenize", "evaluate") else "foreign_quantizer=true"
        sdhubert(*command, meant)
    assert json.loads((tmp_path / "units/units.json").read_text())["units"]["tokens"] > 0


def test_its_own_and_one_that_tells_nothing_are_taken(made: Path, tmp_path: Path) -> None:
    sdhubert("tokenize", made / "ours", tmp_path / "own", "--quantizer", made / "q-ours")
    loaded = Quantizer.load(str(made / "q-checkpoint"))
    Quantizer(loaded.centers, loaded.reducer, {"source": {"km": "km.pt"}}).save(str(tmp_path / "imported"))
    sdhubert("tokenize", made / "ours", tmp_path / "units", "--quantizer", tmp_path / "imported")
    record = read_run(str(made / "ours"))
    assert record is not None
    assert record["config"]["foreign_quantizer"] is False
