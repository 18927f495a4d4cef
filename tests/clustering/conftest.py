"""What the tests of clustering have in common."""

from pathlib import Path

import pytest
from segments import clustered, write_segments


@pytest.fixture
def segments(tmp_path: Path) -> str:
    """4000 syllables of width 16 in 40 rows, 6 files."""
    return write_segments(str(tmp_path / "segments"), clustered(4000, 16, 60))
