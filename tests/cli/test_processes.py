"""Each command, and each script of jobs/, once in a process of its own: what is installed starts, prints and exits.

All else that they do is shown in the test's own process; jobs/segment.py on a cluster in tests/test_jobs.py.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile
from commands import complaint, sdhubert, sdhubert_process
from evaluation_inputs import EVALUATION, golden_rows, make_output
from places import ROOT
from sklearn.cluster import KMeans

pytestmark = pytest.mark.xdist_group("processes")  # what they share is made once

DEMO = ROOT / "sdhubert_ray/assets/demo/synth_0.flac"
REFERENCES = EVALUATION / "syllables_test.json"


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of `sdhubert segment`, with the features of its frames."""
    output = tmp_path_factory.mktemp("segmented") / "out"
    done = sdhubert_process("segment", DEMO, output, "--checkpoint", "bundled", "--frame-features", "float16")
    assert "RANDOM" not in done.stderr
    assert "1 ok" in done.stdout
    return output


@pytest.fixture(scope="module")
def quantizer(segmented: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantizer of `sdhubert cluster`."""
    output = tmp_path_factory.mktemp("clustered") / "quantizer"
    done = sdhubert_process("cluster", segmented, output, "--n-clusters", "3", "--n-units", "2", "--device", "cpu")
    assert "2 of 3 clusters" in done.stdout
    return output


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An output of the golden data, with units."""
    return str(make_output(tmp_path_factory.mktemp("golden") / "out", golden_rows("test")))


def test_segment_and_show(segmented: Path) -> None:
    assert "synth_0.flac: ok" in sdhubert_process("show", segmented).stdout


def test_report(segmented: Path, tmp_path: Path) -> None:
    done = sdhubert_process("report", segmented, "-o", tmp_path / "page.html")
    assert f"the report is in {tmp_path}/page.html" in done.stdout


def test_status(segmented: Path) -> None:
    assert json.loads(sdhubert_process("status", segmented, "--json").stdout)["state"] == "finished"


def test_resegment(segmented: Path, tmp_path: Path) -> None:
    done = sdhubert_process("resegment", segmented, tmp_path / "out", "syllables.syl_dur=0.3")
    assert "1 ok" in done.stdout


def test_cluster_and_tokenize(segmented: Path, quantizer: Path, tmp_path: Path) -> None:
    done = sdhubert_process(
        "tokenize", segmented, tmp_path / "units", "--quantizer", quantizer, "--format", "txt", "--device", "cpu"
    )
    assert f"sequences (txt) are in {tmp_path}/units" in done.stdout


def test_import_quantizer(tmp_path: Path) -> None:
    joblib.dump(KMeans(4, n_init=1).fit(np.random.default_rng(0).normal(size=(40, 3))), tmp_path / "km.pt")
    np.save(tmp_path / "reducer.npy", np.array([0, 1, 0, 1]))
    command = ("import-quantizer", tmp_path / "km.pt", tmp_path / "reducer.npy", tmp_path / "out")
    assert "4 clusters of width 3, 2 units" in sdhubert_process(*command, "--trust-pickle").stdout


def test_evaluate_boundary(evaluated: str) -> None:
    assert "NOT TUNED" in sdhubert_process("evaluate", "boundary", evaluated, REFERENCES).stderr


def test_evaluate_purity(evaluated: str) -> None:
    assert "strict" in sdhubert_process("evaluate", "purity", evaluated, REFERENCES).stdout


def test_evaluate_ssabx(tmp_path: Path) -> None:
    first, second = ({"file_name": DEMO.name, "segment": part, "text": ""} for part in ([0, 1], [1, 2]))
    (tmp_path / "triplets.json").write_text(json.dumps({"0": {"X": first, "P": first, "N": second}}))
    done = sdhubert_process("evaluate", "ssabx", DEMO.parent, tmp_path / "triplets.json", "--checkpoint", "bundled")
    assert "1 of 1" in done.stdout


def test_benchmark(tmp_path: Path) -> None:
    """Refused: from a corpus to its table it takes a minute, and is shown in the test's own process."""
    refused = sdhubert_process("benchmark", "librispeech", tmp_path, "--checkpoint", "bundled", expect=2)
    assert "train-clean-100" in complaint(refused)


def test_manifest(tmp_path: Path) -> None:
    done = sdhubert_process("manifest", DEMO.parent, tmp_path / "m.parquet")
    assert str(tmp_path / "m.parquet") in done.stdout


@pytest.mark.slow  # in a process of its own it is in training/test_loop.py, too, on a Ray that is there already
@pytest.mark.ray
def test_train_and_export(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    samples, rate = soundfile.read(DEMO)
    for number in range(10):
        soundfile.write(tmp_path / "speech" / f"{number}.flac", samples[: rate * 2], rate)
    done = sdhubert_process(
        "train", "--config-name", "sdhubert_tiny", "--output", tmp_path / "run", f"data.source={tmp_path}/speech",
        "data.sample_len=0.6", "data.batch_size=4", "data.val_share=0.2", "max_steps=1", "val_check_interval=1",
    )  # fmt: skip
    assert "1 steps are done" in done.stdout
    assert "core_worker" not in done.stderr  # Ray's own
    assert "\x1b" not in done.stdout + done.stderr
    told = json.loads(sdhubert("status", tmp_path / "run", "--json").stdout)
    assert told["state"] == "finished"
    sdhubert_process("export", tmp_path / "run", tmp_path / "ours.pt", "--which", "last")
    assert (tmp_path / "ours.pt").exists()


JOBS = {
    "cluster.py": "cluster",
    "evaluate.py": "evaluate",
    "segment.py": "segment",
    "tokenize_segments.py": "tokenize",
    "train.py": "train",
}


def run_job(name: str, *arguments: str | Path, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "jobs" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_job_is_known() -> None:
    assert {path.name for path in (ROOT / "jobs").glob("*.py")} == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_the_command(name: str, tmp_path: Path) -> None:
    """From any folder: no sources of this repository lie beside it on a cluster."""
    job = shutil.copy(ROOT / "jobs" / name, tmp_path)
    assert f" {JOBS[name]} " in run_job(job, "--help", cwd=tmp_path)


def test_a_job_does_what_the_command_does(evaluated: str, tmp_path: Path) -> None:
    assert "boundaries" in run_job("evaluate.py", "boundary", evaluated, REFERENCES, cwd=tmp_path)
