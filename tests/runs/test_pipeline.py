"""The chain of stages that GPUs use, here with encoders on CPUs."""

import os
import shutil
import signal
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
from sdhubert_ray.output import Lease, list_plans, pending_units, publish_plan
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
def quantizer(tmp_path):
    made = Quantizer(np.random.default_rng(0).normal(0, 0.3, (20, 48)).astype(np.float32), None)
    made.save(str(tmp_path / "quantizer"))
    return made


@pytest.fixture
def prepare(corpus, tiny_checkpoint, quantizer, tmp_path):
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    overrides = ["resources.unit_seconds=600", "resources.unit_rows=3", "device=cpu", "resources.encode.max_workers=2"]
    config = load_config(None, [*overrides, f"quantizer={tmp_path / 'quantizer'}"], {}, checkpoint.options)

    def call(output, engine):
        job = prepare_job(config, checkpoint, str(corpus), list_input(str(corpus)), str(output), engine=engine)
        return job, checkpoint, config

    return call


def dying_once(stage, death):
    """A stage whose second call kills its process, the first time that this happens: `death` is a file then."""

    class DyingOnce(stage):
        calls = 0

        def __call__(self, batch):
            self.calls += 1
            if self.calls == 2 and not death.exists():
                death.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    return DyingOnce


def test_stages_chained_over_workers_write_the_table_of_one_process(prepare, monkeypatch, tmp_path):
    """In one pass with units; an encoder is killed on the way."""
    from sdhubert_ray.runs import pipeline

    death = tmp_path / "death"
    monkeypatch.setattr(pipeline, "EncodePacked", dying_once(pipeline.EncodePacked, death))
    job, *_ = prepare(tmp_path / "local", "local")
    run_job(job, lambda count, seconds: None)
    output = tmp_path / "ray"
    job, checkpoint, config = prepare(output, "ray")
    publish_plan(str(output), job.staged, 1, job.run_id, "input")
    job.folder.cleanup()
    units = pending_units(list_plans(str(output)), [])
    assert len(units) == 10
    lease = Lease(str(output), job.run_id)
    chain = pipeline.chain_stages(units, checkpoint, config, str(output), job.run_id, job.origin.quantizer)
    reports = pa.concat_tables(list(chain.iter_batches(batch_size=None, batch_format="pyarrow")))
    lease.release()
    assert death.exists()
    assert sum(reports["rows"].to_pylist()) == 30
    assert len(set(reports["unit_name"].to_pylist())) == 10
    assert pending_units(list_plans(str(output)), commits_in(output)) == []
    made = rows(output)
    assert sum(map(len, made["units"].to_pylist())) > 100
    assert made.equals(rows(tmp_path / "local"))


# -- where there are GPUs


def test_pipelines_of_gpus_can_be_built(tiny_checkpoint, quantizer, golden, tmp_path):
    """Ray refuses what it is asked for as soon as it is asked."""
    from sdhubert_ray.runs.pipeline import build_embed_pipeline, build_pipeline, build_tokenize_pipeline

    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    config = load_config(None, ["device=cuda"], {}, checkpoint.options)
    output = str(tmp_path / "out")
    clips = cut_units([Clip(str(golden / "audio/synth_0.flac"), 0.0, 1.0)], config)
    build_pipeline([("00001", 0), ("00001", 1)], checkpoint, config, output, "me", quantizer)
    build_tokenize_pipeline(["segments/00001-0000000.parquet"], quantizer, "cuda", output, "me", "zstd", None)
    build_embed_pipeline(clips, checkpoint, config, [9])


def test_what_gpus_run_gives_the_results_of_one_process(tiny_checkpoint, quantizer, golden, tmp_path):
    """On a cluster of its own, which says that it has two GPUs: see the script."""
    audio, fake = golden / "audio", tmp_path / "fake"
    fake.mkdir()
    script = [sys.executable, TESTS / "fake_gpus.py"]
    command = [*script, audio, tiny_checkpoint, tmp_path / "quantizer", fake]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    gpus = {path.name for path in (fake / "gpus").iterdir()}
    assert {"EncodePacked-0", "EncodePacked-1", "EmbedPacked-0", "EmbedPacked-1"} <= gpus
    assert gpus & {"AssignUnits-0", "AssignUnits-1"}
    checkpoint = fetch_checkpoint(str(tiny_checkpoint))
    layout = ["device=cpu", "resources.unit_seconds=600", "resources.unit_rows=2"]
    config = load_config(None, layout, {}, checkpoint.options)
    out = tmp_path / "out"
    job = prepare_job(config, checkpoint, str(audio), list_input(str(audio)), str(out), engine="local")
    run_job(job, lambda count, seconds: None)
    assert rows(fake / "out").equals(rows(out))
    options = {"target": str(tmp_path / "made"), "engine": "local"}
    run_tokenizing(
        prepare_tokenizing(str(out), quantizer, "q", SequenceOptions(("txt",)), **options), lambda rows: None
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

    numbers = pa.table({"number": list(range(600))})
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=1)
    told = one_by_one(numbers).map_batches(Tell, batch_size=None, batch_format="pyarrow", compute=pool, num_cpus=3)
    blocks = list(told.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert [block.column("rows").to_pylist() for block in blocks] == [[1]] * 600
    assert [block.column("number")[0].as_py() for block in blocks] == list(range(600))
