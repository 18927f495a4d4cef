"""What `tokenize` refuses, and `segment` of a quantizer."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import complaint, sdhubert
from segmented import Segmenting
from tokenized import content, make_quantizer, tokenize

from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_run, write_run
from sdhubert_ray.runs.session import Job


@pytest.fixture(scope="module")
def made(golden: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of one recording, a quantizer that is damaged, and folders that are no place for sequences."""
    folder = tmp_path_factory.mktemp("made")
    sdhubert("segment", golden / "audio/synth_0.flac", folder / "out", "--checkpoint", tiny_checkpoint)
    make_quantizer(folder / "damaged")
    tensors = folder / "damaged/quantizer.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-50])
    shutil.copytree(folder / "out", folder / "run")
    (folder / "file").write_text("")
    (folder / "foreign").mkdir()
    (folder / "foreign/units.json").write_text("[]")
    return folder


@pytest.mark.parametrize(
    ("quantizer", "options", "sentence"),
    [
        ("{wide}", {}, "quantizer {wide} is for features of width 64, those of {made}/out have 48"),
        ("{made}/nothing", {}, "{made}/nothing does not exist or is no quantizer"),
        ("{made}/damaged", {}, "is damaged"),
        ("{one}", {"device": "gpu"}, "device is 'gpu'; it has to be one of auto, cpu"),
        ("{one}", {"device": "cuda"}, "device is cuda, but torch sees no GPU here"),
        ("{one}", {"engine": "spark"}, "engine is 'spark'; it has to be one of"),
        ("{one}", {"engine": "local", "address": "auto"}, "the local engine uses no cluster"),
        ("{one}", {"target": "{made}/out"}, "is where the segments are; leave it out"),
        ("{one}", {"target": "{made}/run/../out/"}, "is where the segments are; leave it out"),
        ("{one}", {"target": "{made}/run"}, "output {made}/run holds a run of `sdhubert segment`"),
        ("{one}", {"target": "{made}/file"}, "output {made}/file is a file; name a folder"),
        ("{one}", {"target": "{made}/foreign"}, "units.json is no statistics of `sdhubert tokenize`"),
    ],
)
def test_refused(
    quantizer: str, options: dict[str, str], sentence: str, made: Path, quantizers: dict[str, str]
) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    names = {"made": made, **quantizers}
    before = content(made)
    with pytest.raises(UserError) as caught:
        tokenize(
            made / "out", quantizer.format(**names), **{key: text.format(**names) for key, text in options.items()}
        )
    assert sentence.format(**names) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(made) == before


def test_no_run_is_refused(made: Path, quantizers: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{made} holds no run; name the output folder of `sdhubert segment`"):
        tokenize(made, quantizers["one"])


def test_a_run_without_rows_is_refused(made: Path, quantizers: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    for name in ("manifest", "segments"):
        shutil.rmtree(tmp_path / "out" / name)
    record = read_run(str(tmp_path / "out"))
    write_run(str(tmp_path / "out"), {**record, "plans": []})
    with pytest.raises(UserError, match=f"{tmp_path}/out has no rows to give units to; run `sdhubert segment`"):
        tokenize(tmp_path / "out", quantizers["one"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "Missing option '--quantizer'"), (["--quantizer", "q", "--format", "parqet"], "did you mean parquet?")],
)
def test_the_command_line_refuses(arguments: list[str], sentence: str, made: Path) -> None:
    before = content(made)
    assert sentence in sdhubert("tokenize", made / "out", *arguments, expect=2).stderr
    assert content(made) == before


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        ("{wide}", "is for features of width 64, those of checkpoint"),
        ("{made}/nothing", "does not exist or is no quantizer"),
        ("{made}/damaged", "is damaged"),
    ],
)
def test_segment_refuses_a_wrong_quantizer(
    quantizer: str,
    sentence: str,
    made: Path,
    golden: Path,
    plan: Callable[..., Job],
    quantizers: dict[str, str],
    tmp_path: Path,
) -> None:
    given = quantizer.format(made=made, **quantizers)
    with pytest.raises(UserError, match=sentence):
        plan(golden / "audio/synth_0.flac", tmp_path / "out", [f"quantizer={given}"])
    assert not (tmp_path / "out").exists()


def test_features_that_are_no_numbers_are_told_by_their_file(
    golden: Path, segment: Segmenting, quantizers: dict[str, str], tmp_path: Path
) -> None:
    """And that the same command helps only when they have been mended."""
    segment(golden / "audio", tmp_path / "out")
    (path, *_) = sorted((tmp_path / "out/segments").iterdir())
    table = pq.read_table(path)
    place = table.column_names.index("segment_features")
    kind = table.schema.field(place).type
    vectors = table.column(place).to_pylist()
    vectors[0][0][0] = float("nan")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(vectors, kind)), path)
    said = complaint(sdhubert("tokenize", tmp_path / "out", "--quantizer", quantizers["one"], expect=1))
    assert f"{path}: features cannot be quantized: features have NaN or infinite values" in said
    assert "segment its recordings again; that mended, the same command resumes" in said
