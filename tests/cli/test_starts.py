"""Whoever is refused, or has nothing left to do, does not wait for torch, transformers, Ray and Lightning."""

import subprocess
import sys

import pytest
from commands import sdhubert
from places import GOLDEN

HEAVY = ("torch", "transformers", "ray", "lightning")
TELL = f"""
import sys
from sdhubert_ray import cli
sys.argv = ["sdhubert", *sys.argv[1:]]
try:
    cli.main()
finally:
    print("imported:", *(name for name in {HEAVY} if name in sys.modules))
"""


def start(*arguments):
    """The exit code, what is said, and what was imported."""
    done = subprocess.run(
        [sys.executable, "-c", TELL, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    said, _, imported = done.stdout.rpartition("imported:")
    return done.returncode, said + done.stderr, imported.split()


@pytest.fixture(scope="module")
def output(tmp_path_factory, tiny_checkpoint):
    """A finished run with frame features, its quantizer, and the output cut again."""
    folder = tmp_path_factory.mktemp("started")
    sdhubert("segment", GOLDEN / "audio", folder / "out", "--checkpoint", tiny_checkpoint,
             "--frame-features", "float32", "--engine", "local")  # fmt: skip
    sdhubert("cluster", folder / "out", folder / "units", "--n-clusters", "4", "--n-units", "2", "--engine", "local")
    sdhubert("resegment", folder / "out", folder / "again", "--engine", "local")
    return folder


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["segment", "{audio}", "{new}", "--engine", "nope"], 2, "engine is 'nope'"),
        (["segment", "{audio}", "/nowhere", "{new}"], 2, "input /nowhere does not exist"),
        (["segment", "{audio}", "{new}", "--checkpoint", "nowhere.pt"], 2, "checkpoint nowhere.pt does not exist"),
        (["segment", "{audio}", "{new}", "--checkpoint", "bundled", "syllables.sil=1"], 2, "did you mean"),
        (["segment", "{audio}", "{out}", "--checkpoint", "{tiny}", "--frame-features", "float32"], 0, "nothing was"),
        (["resegment", "{out}", "{again}"], 0, "nothing was left"),
        (["cluster", "{out}", "{units}", "--n-clusters", "4", "--n-units", "2"], 0, "holds this quantizer already"),
        (["status", "{out}"], 0, "finished"),
        (["show", "{out}"], 0, ""),
        (["export", "{new}", "x.pt"], 2, "there is no checkpoint in"),
        (["train", "--output", "{new}", "data.source=/nowhere"], 2, "input /nowhere does not exist"),
        (["evaluate", "ssabx", "/nowhere", "nowhere.json", "--checkpoint", "bundled"], 2, "is no folder"),
    ],
)  # fmt: skip
def test_little_is_said_at_once(output, tmp_path, tiny_checkpoint, arguments, code, said):
    places = {
        "{audio}": GOLDEN / "audio", "{new}": tmp_path / "new", "{out}": output / "out", "{again}": output / "again",
        "{units}": output / "units", "{tiny}": tiny_checkpoint,
    }  # fmt: skip
    returned, told, imported = start(*(places.get(text, text) for text in arguments))
    assert returned == code, told
    assert said in told
    assert imported == []
