"""Whatever lies in a folder before a command writes into it: what no command wrote is there afterwards, as it was."""

import shutil

import numpy as np
import pytest
from commands import sdhubert
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.errors import UserError
from sdhubert_ray.training.options import load_train_config
from sdhubert_ray.training.runs import prepare_run
from sdhubert_ray.units import Quantizer

NAMES = (
    *("notes.txt", "run.json", "lease.txt", "a.TextGrid", "a_segments.txt", "b_feature.npy", "sub/a.TextGrid"),
    *("segments", "segments/notes.txt", "segments/a.flac", "segments/part-0.parquet", "commits/a.flac", "commits/c"),
    *("manifest/notes.md", "manifest/00001.json", "manifest/00002.json", "manifest/00001-00000.parquet"),
    *("segments/00001-0000000-0000001.parquet", "segments/00001-0123456789ab-0000000-0000001.parquet"),
    *("units", "units.json", "units.txt", "units/units.txt", "units/a_units.npy", "a_units.npy", "parts/a", "parts"),
    *("work", "work/notes.txt", "work/settings.json", "work/sample/a", "quantizer.json", "quantizer.safetensors"),
    *("km_4.pt", "km_4to2.npy", "data/train.arrow", "data/a.wav", "data", "best", "best/a.ckpt", "best.json"),
    *("metrics.csv", "tensorboard/a", "checkpoint_000000005/checkpoint.ckpt", "checkpoint_000000005/notes.txt"),
)
OF_A_RUN = {"metrics.csv", "best.json", "checkpoint_000000005/checkpoint.ckpt"}
"""What runs are known to write into their folder: whoever puts such a file there while the run stands has lost it."""
CONTENTS = (b"mine", b"{}", b'{"mine": 1}', b"")


@pytest.fixture(scope="module")
def made(golden, tiny_checkpoint, tmp_path_factory):
    """Audio, a table of its segments, a quantizer."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "audio").mkdir()
    shutil.copy(golden / "audio" / "synth_3.flac", folder / "audio" / "a.flac")
    (folder / "audio" / "b.flac").write_bytes(b"no audio")
    sdhubert("segment", folder / "audio", folder / "table", "--checkpoint", tiny_checkpoint, expect=3)
    width = Quantizer(np.ones((4, 48), np.float32)).width
    Quantizer(np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)).save(str(folder / "quantizer"))
    return folder


def segment(made, checkpoint, output, overwrite):
    more = ["--format", "files", "--format", "textgrid", "--max-failed", "1", "--engine", "local", *overwrite]
    return ["segment", made / "audio", output, "--checkpoint", checkpoint, *more]


def tokenize(made, checkpoint, output, overwrite):
    formats = ["--format", "txt", "--format", "npy"]
    return ["tokenize", made / "table", output, "--quantizer", made / "quantizer", *formats, *overwrite]


def cluster(made, checkpoint, output, overwrite):
    sizes = ["--n-clusters", "4", "--n-units", "2", "--sklearn", "--device", "cpu"]
    return ["cluster", made / "table", output, *sizes, *overwrite]


def manifest(made, checkpoint, output, overwrite):
    return ["manifest", made / "audio", output / "a.parquet", *overwrite]


def train(made, checkpoint, output, overwrite):
    """As far as it is planned and the folder made ready."""
    options = [f"data.source={made / 'audio'}", "data.val_share=0"]
    run = prepare_run(load_train_config("sdhubert_tiny", options, {}), str(output), "me", bool(overwrite))
    run.lease.release()


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_all(folder, files):
    """Write files, but for those whose place is taken."""
    for name, data in files.items():
        path = folder / name
        if not path.exists() and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.mark.seconds
@pytest.mark.parametrize("command", [segment, tokenize, cluster, manifest, train])
def test_what_no_command_wrote_stays_as_it_was(command, made, tiny_checkpoint, tmp_path_factory):
    def call(output, overwrite):
        """Whether the command has done its work; else it has refused to."""
        arguments = ["--overwrite"] if overwrite else []
        if command is train:
            try:
                train(made, tiny_checkpoint, output, arguments)
            except UserError:
                return False
            return True
        done = sdhubert(*command(made, tiny_checkpoint, output, arguments), expect=(0, 2))
        return done.returncode == 0

    ours = tmp_path_factory.mktemp("ours")
    assert call(ours, False)

    @settings(deadline=None, max_examples=15)
    @given(st.booleans(), st.dictionaries(st.sampled_from(NAMES), st.sampled_from(CONTENTS), max_size=4), st.booleans())
    def check(there, foreign, overwrite):
        output = tmp_path_factory.mktemp("out")
        if there:
            shutil.copytree(ours, output, dirs_exist_ok=True)
        before = content(output)
        write_all(output, {name: data for name, data in foreign.items() if not (there and name in OF_A_RUN)})
        mine = {name: data for name, data in content(output).items() if name not in before}
        done = call(output, overwrite)
        after = content(output)
        assert {name: after.get(name) for name in mine} == mine
        if not done:
            assert {name: after.get(name) for name in before} == before
        worked.append(done)

    worked = []
    check()
    assert any(worked)
