"""How a process ends that has refused its input: by its exit code, never by a signal.

Threads of Arrow that still held what Python had read for them aborted the ending interpreter, in some of a hundred.
"""

import json
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from commands import SDHUBERT
from segments import clustered, write_segments

ROWS, BAD = 200_000, 70
TIMES = 200


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests with a row without an id near their beginning, and a table whose recordings no reference names."""
    folder = tmp_path_factory.mktemp("inputs")
    ids = [None if row == BAD else f"recording{row}" for row in range(ROWS)]
    uris = [f"/audio/{row}.wav" for row in range(ROWS)]
    table = pa.table({"id": ids, "uri": uris, "text": ["x" * 50] * ROWS})
    pq.write_table(table, folder / "manifest.parquet", row_group_size=5000)
    pyarrow.csv.write_csv(table, folder / "manifest.csv")
    twice = pa.Table.from_arrays([*table.columns, table.column("uri")], names=[*table.column_names, "uri"])
    pq.write_table(twice, folder / "twice.parquet", row_group_size=5000)
    write_segments(str(folder / "table"), clustered(20_000, 64, 60), rows=400, unit_rows=4)
    syllables = [{"start": 0.0, "end": 0.2, "label": "a"}]
    references = {str(row): {"file_name": f"other/{row}.flac", "syllables": syllables} for row in range(20)}
    (folder / "references.json").write_text(json.dumps(references))
    return folder


COMMANDS = {
    "null id, Parquet": ["segment", "manifest.parquet", "out", "--checkpoint", "bundled"],
    "null id, CSV": ["segment", "manifest.csv", "out", "--checkpoint", "bundled"],
    "a column twice": ["manifest", "twice.parquet", "out.parquet"],
    "boundary": ["evaluate", "boundary", "table", "references.json"],
    "purity": ["evaluate", "purity", "table", "references.json"],
}


def exit_codes(command: list[str], folder: Path, times: int) -> Counter[int]:
    """Of a command that is run so many times, several at once."""

    def run(_: int) -> int:
        return subprocess.run([SDHUBERT, *command], cwd=folder, capture_output=True, check=False).returncode

    with ThreadPoolExecutor(6) as pool:
        return Counter(pool.map(run, range(times)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_refusal_is_an_exit_code(kind: str, inputs: Path) -> None:
    assert exit_codes(COMMANDS[kind], inputs, TIMES) == {2: TIMES}
    assert not (inputs / "out").exists()
