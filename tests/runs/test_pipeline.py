"""The chain of stages that GPUs use, here with encoders on CPUs."""

import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from outputs import commits_in
from places import TESTS

from sdhubert_ray import Quantizer
from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.evaluation.ssabx import cut_units, embed_clips
from sdhubert_ray.evaluation.triplets import Clip
from sdhubert_ray.output.formats import SequenceOptions
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.tokenizing import prepare_tokenizing, run_tokenizing

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def corpus(golden, tmp_path):
    """Thirty recordings; one is none, one is missing."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(28):
        shutil.copy(golden / f"audio/synth_{number % 5}.flac", folder / f"{number:02d}.flac")
    (folder / "28.flac").write_bytes(b"no audio")
    lines = [f"{number:02d}.flac,audio/{number:02d}.flac,s{number % 3}\n" for number in range(30)]
    (tmp_path / "m.csv").write_text("id,uri,speaker\n" + "".join(lines))
    return tmp_path / "m.csv"


def rows(output):
    """All rows that lie in the output, one that was committed twice twice."""
    paths = [output / commit.name for commit in commits_in(output)]
    return pa.concat_tables([pq.read_table(path) for path in paths]).sort_by("key").combine_chunks()


@pytest.fixture
def quantizers(tmp_path):
    """Two, saved as `0` and `1`."""
    made = [Quantizer(np.random.default_rng(seed).normal(0, 0.3, (20, 48)).astype(np.float32), None) for seed in (0, 1)]
    for number, one in enumerate(made):
        one.save(str(tmp_path / str(number)))
    return made


def test_pipelines_of_gpus_can_be_built(tiny_checkpoint, quantizers, golden, tmp_path):
    """Ray refuses what it is asked for as soon as it is asked."""
    from sdhubert_ray.runs.pipeline import build_embed_pipeline, build_pipeline, build_tokenize_pipeline

    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    config = load_config(None, ["device=cuda"], {}, checkpoint.options)
    output = str(tmp_path / "out")
    clips = cut_units([Clip(str(golden / "audio/synth_0.flac"), 0.0, 1.0)], config)
    build_pipeline([("00001", 0), ("00001", 1)], checkpoint, config, output, "me", quantizers[0])
    build_tokenize_pipeline(["segments/00001-0000000.parquet"], quantizers[0], "cuda", output, "me", "zstd", None)
    build_embed_pipeline(clips, checkpoint, config, [9])


def test_what_gpus_run_gives_the_results_of_one_process(corpus, tiny_checkpoint, quantizers, golden, tmp_path):
    """On a cluster of its own, which says that it has two GPUs, and of which an encoder is killed: see the script."""
    audio, fake = golden / "audio", tmp_path / "fake"
    fake.mkdir()
    script = [sys.executable, TESTS / "fake_gpus.py"]
    command = [*script, corpus, audio, tiny_checkpoint, tmp_path / "0", tmp_path / "1", fake]
    result = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    gpus = {path.name for path in (fake / "gpus").iterdir()}
    assert {"EncodePacked-0", "EncodePacked-1", "EmbedPacked-0", "EmbedPacked-1"} <= gpus
    assert gpus & {"AssignUnits-0", "AssignUnits-1"}
    assert (fake / "death").exists()
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    layout = ["device=cpu", "resources.unit_seconds=600", "resources.unit_rows=3", f"quantizer={tmp_path}/0"]
    config = load_config(None, layout, {}, checkpoint.options)
    out = tmp_path / "out"
    job = prepare_job(config, checkpoint, str(corpus), list_input(str(corpus)), str(out), engine="local")
    run_job(job, lambda count, seconds: None)
    made = rows(fake / "out")
    assert sum(map(len, made["units"].to_pylist())) > 100
    assert made.equals(rows(out))
    options = {"target": str(tmp_path / "made"), "engine": "local"}
    run_tokenizing(
        prepare_tokenizing(str(out), quantizers[1], "q", SequenceOptions(("txt",)), **options), lambda rows: None
    )
    assert (fake / "made/units.txt").read_bytes() == (tmp_path / "made/units.txt").read_bytes()
    clips = [Clip(str(path), 0.0, 0.3) for path in sorted(audio.glob("*.flac"))]
    embedded, _ = embed_clips(clips, checkpoint, config, [9], engine="local", address=None, progress=lambda count: None)
    found = np.load(fake / "embedded.npz")
    for name, vectors in embedded.items():
        np.testing.assert_array_equal(found[name], vectors)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rows_come_one_by_one_in_order_to_actors_that_have_all_cpus():
    from sdhubert_ray.runs.pipeline import one_by_one

    class Tell:  # here, as the workers do not find this file
        def __call__(self, batch):
            return pa.table({"rows": [batch.num_rows], "number": batch.column("number")})

    numbers = pa.table({"number": list(range(300))})
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=1)
    told = one_by_one(numbers).map_batches(Tell, batch_size=None, batch_format="pyarrow", compute=pool, num_cpus=3)
    blocks = list(told.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert [block.column("rows").to_pylist() for block in blocks] == [[1]] * 300
    assert [block.column("number")[0].as_py() for block in blocks] == list(range(300))
