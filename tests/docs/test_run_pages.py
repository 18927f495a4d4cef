"""The script that runs the pages: what it runs, where, and what it says of failures."""

from pathlib import Path

import pytest
import run_pages

PAGE = """
# A page

![drawn](images/drawn.png)

```bash
ls speech
echo one > made.txt
```

```python
import pathlib
assert pathlib.Path("made.txt").read_text() == "one\\n"
pathlib.Path("drawn.png").write_bytes(b"new")
```

```bash title="Not run by the checks: would fail"
false
```

```text
false
```
"""


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one page and one picture, which stands for docs/."""
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "drawn.png").write_bytes(b"old")
    monkeypatch.setattr(run_pages, "DOCS", tmp_path)
    return tmp_path


def test_blocks_are_run_in_order_in_a_folder_with_speech(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pages.main([]) == 0
    said = capsys.readouterr().out
    assert "page.md:7 ok" in said
    assert "page.md:12 ok" in said
    assert "page.md:18 not run: would fail" in said
    assert "1 pages, 0 failed, 1 blocks not run" in said
    assert (docs / "images" / "drawn.png").read_bytes() == b"old"
    assert sorted(path.name for path in docs.iterdir()) == ["images", "page.md"]


def test_pictures_are_taken_where_that_is_asked_for(docs: Path) -> None:
    assert run_pages.main(["page.md", "--pictures"]) == 0
    assert (docs / "images" / "drawn.png").read_bytes() == b"new"


@pytest.mark.parametrize("failing", ["```bash\necho first; false | cat\necho never\n```", "```python\n1 / 0\n```"])
def test_a_failure_is_told_and_ends_its_page(failing: str, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (docs / "page.md").write_text(f"{failing}\n\n```bash\ntouch {docs}/later\n```\n")
    (docs / "other.md").write_text(f"```bash\ntouch {docs}/other\n```\n")
    assert run_pages.main([]) == 1
    said = capsys.readouterr().out
    assert "page.md:2 FAILED" in said
    assert "first" in said or "ZeroDivisionError" in said
    assert "2 pages, 1 failed" in said
    assert not (docs / "later").exists()
    assert (docs / "other").exists()
