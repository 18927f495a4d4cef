"""The site: built without a warning, complete, and asking no other server for anything."""

import re
import subprocess
import sys
from pathlib import Path

import hooks
import pytest
from mkdocs.exceptions import PluginError
from places import ROOT

LOADED = re.compile(
    r"""<(?:script|img|source|iframe)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b(?=[^>]*stylesheet)[^>]*href=["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.seconds
def test_each_page_is_there(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"commands", "files/benchmarks/RESULTS"}
    for page in pages:
        assert (site / f"{page}.html").exists(), page
    assert not (site / "tools").exists()
    assert "<h2" in (site / "commands.html").read_text()
    assert 'id="sdhubert_ray.SDHuBERTSegmenter"' in (site / "python.html").read_text()
    assert (site / "files/configs/segment.yaml").read_text() == (ROOT / "configs/segment.yaml").read_text()


@pytest.mark.seconds
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not LOADED.search(path.read_text()), path
    for path in (*site.rglob("*.css"),):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text()), path


@pytest.mark.seconds
def test_an_index_for_language_models(site: Path) -> None:
    lines = (site / "llms.txt").read_text().splitlines()
    assert lines[:3] == ["# sdhubert_ray", "", "> Speech audio to syllables, at any scale, with SD-HuBERT on Ray"]
    linked = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): .+", "\n".join(lines), flags=re.MULTILINE)
    assert {path.name for path in (ROOT / "docs").glob("*.md")} | {"commands.md"} == set(linked)
    for name in linked:
        assert (site / name).read_text().startswith(("# ", "---")), name


@pytest.mark.parametrize(
    ("page", "target", "there"),
    [
        ("units.md", "output.md", "output.md"),
        ("units.md", "../benchmarks/RESULTS.md", "files/benchmarks/RESULTS.md"),
        ("units.md", "https://ray.io", "https://ray.io"),
        ("files/recipes/small/README.md", "../../docs/units.md", "../../../units.md"),
        ("files/recipes/small/README.md", "encoder.json", "encoder.json"),
        ("files/benchmarks/RESULTS.md", "../configs/segment.yaml", "../configs/segment.yaml"),
    ],
)
def test_where_a_link_of_the_repository_leads_on_the_site(page: str, target: str, there: str) -> None:
    assert hooks._rewritten(page, target) == there


def test_a_link_to_a_file_that_is_not_there_is_refused() -> None:
    page = hooks.PurePosixPath("docs/units.md")
    assert hooks._outside(page, "[a](../configs/segment.yaml#L1) `[b](../nowhere)`") == [
        hooks.PurePosixPath("configs/segment.yaml")
    ]
    with pytest.raises(PluginError, match=r"links to configs/none\.yaml, which is no file of the repository"):
        hooks._outside(page, "[a](../configs/none.yaml)")
