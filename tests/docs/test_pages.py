"""The pages say what is there: commands that parse, messages that are said, columns of tables, links that lead on."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from blocks import Block, commands_of, read_blocks
from command_pages import all_commands, write_page
from places import ROOT
from typer._click.exceptions import UsageError
from typer.core import TyperGroup
from typer.main import get_command

from sdhubert_ray.cli import app
from sdhubert_ray.output.tables import FRAME_COLUMNS, MANIFEST_FIELDS, RESULT_FIELDS, STATUSES
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.training.options import load_train_config

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCKS = [block for path in (*PAGES, ROOT / "README.md") for block in read_blocks(path)]
IN_TEXT = re.compile(r"`(sdhubert [^`]+)`")


def all_written() -> list[tuple[str, str]]:
    """Every command on a page, and where it stands: in blocks, run or not, and whole ones in the text of the README."""
    found = [(f"{block.page}:{block.line}", line) for block in BLOCKS for line in commands_of(block)]
    readme = (ROOT / "README.md").read_text()
    return found + [("README.md", line) for line in IN_TEXT.findall(readme) if "OUTPUT" in line]


def parse(line: str) -> tuple[str, dict[str, object]]:
    """The command that a line calls, and its parameters. Raises what typer says of wrong usage."""
    words = shlex.split(line.partition(" | ")[0], comments=True)[1:]
    command, name = get_command(app), "sdhubert"
    while isinstance(command, TyperGroup):
        name = f"{name} {words[0]}"
        command = command.commands[words.pop(0)]
    return name, command.make_context(name, words).params


@pytest.mark.parametrize(("where", "line"), all_written())
def test_a_command_is_one_that_is_understood(where: str, line: str) -> None:
    name, params = parse(line)
    overrides = [text for text in params.get("overrides") or () if "=" in text]
    if name == "sdhubert train":
        load_train_config(params["config_name"], overrides, {})
    elif overrides:
        load_config(None, overrides, {}, {})


def test_a_command_that_is_not_understood_is_found() -> None:
    for line, said in (
        ("sdhubert status", "Missing"),
        ("sdhubert segment speech out --chekpoint bundled", "No such option"),
    ):
        with pytest.raises(UsageError, match=said):
            parse(line)
    with pytest.raises(KeyError, match="boundry"):
        parse("sdhubert evaluate boundry")


def test_pages_have_commands_of_each_kind() -> None:
    """So that the test above cannot be empty."""
    names = {parse(line)[0] for _, line in all_written()}
    assert names >= {f"sdhubert {word}" for word in ("segment", "cluster", "tokenize", "show", "status", "train")}
    assert any(block.why_not for block in BLOCKS)
    assert any(block.language == "python" for block in BLOCKS)


def test_a_block_that_is_not_run_says_so_in_one_way() -> None:
    for block in BLOCKS:
        if block.is_code and block.title:
            assert block.why_not, f"{block.page}:{block.line} is run, or is not: its title is {block.title!r}"


def test_no_code_is_indented_only() -> None:
    """It would be run by nobody, and not be seen as left out."""
    for path in PAGES:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for line in re.findall(r"^    (?:sdhubert|python|pip|make|ray) .*", text, flags=re.MULTILINE):
            pytest.fail(f"{path.name}: {line.strip()} stands in no fence")


# --- what pages say of the code ----------------------------------------------------------------------------------


def said_by(path: Path) -> list[list[str]]:
    """The strings of a module, each as its parts between what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append([part.value for part in node.values if isinstance(part, ast.Constant)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append([node.value])
    return found


SAID = [" ".join(parts) for path in (ROOT / "sdhubert_ray").rglob("*.py") for parts in said_by(path)]
MESSAGES = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_in_troubleshooting_is_said(message: str) -> None:
    parts = [part.strip() for part in message.split("…")]
    pattern = re.compile(".*".join(re.escape(part) for part in parts if part), re.DOTALL)
    assert any(pattern.search(text) or pattern.search(text.replace("%s", "").replace("%d", "")) for text in SAID)


def test_troubleshooting_has_messages() -> None:
    assert len(MESSAGES) > 30
    assert not any("no module says this" in text for text in SAID)


def test_every_column_and_status_has_its_line() -> None:
    output, manifest = ((DOCS / name).read_text() for name in ("output.md", "manifest.md"))
    for name in (*(field.name for field in RESULT_FIELDS), "segment_features", "units", *FRAME_COLUMNS, *STATUSES):
        assert re.search(rf"^\|[^|]*`{name}`", output, flags=re.MULTILINE), name
    for field in MANIFEST_FIELDS:
        assert f"`{field.name}`" in manifest, field.name


def test_reference_of_commands_has_all_of_them() -> None:
    sections = re.split(r"^## ", write_page(), flags=re.MULTILINE)[1:]
    by_name = {section.partition("\n")[0]: section for section in sections}
    commands = dict(all_commands())
    assert by_name.keys() == commands.keys()
    for name, command in commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in by_name[name]
    table = [line for line in by_name["sdhubert segment"].splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)


# --- pictures and links ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", sorted((DOCS / "images").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_drawn_by_a_command_of_a_page(picture: Path) -> None:
    drawn = [block for block in BLOCKS if block.is_run]
    assert any(picture.name in block.code for block in drawn)
    assert any(f"images/{picture.name}" in path.read_text() for path in PAGES)


OTHERS = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("recipes/*/*.md"))
    if not path.parent.name.startswith(".") and path.parent != DOCS
]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_outside_of_the_site_lead_to_files(path: Path) -> None:
    """Those of the site itself are followed when it is built."""
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_names_of_pages_in_the_code_are_right() -> None:
    for folder in ("sdhubert_ray", "configs", "tests", "benchmarks", "recipes", "jobs", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml", ".md"} and path.is_file():
                for name in re.findall(r"docs/([a-z_]+)\.md", path.read_text()):
                    assert (DOCS / f"{name}.md").exists() or name == "commands", f"{path}: docs/{name}.md"


def test_what_counts_as_a_block(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '```bash title="Not run by the checks: needs a bucket"\nsdhubert status \\\n    out  # far\n```\n'
        "\n  ```python\n  print(1)\n  ```\n```\nplain\n```\n"
    )
    first, second, third = read_blocks(page)
    assert first == Block("page.md", 2, "bash", "Not run by the checks: needs a bucket", first.code)
    assert (first.why_not, list(commands_of(first))) == ("needs a bucket", ["sdhubert status      out"])
    assert (second.language, second.line, second.code, second.why_not) == ("python", 7, "print(1)\n", None)
    assert third.code == "plain\n"
    page.write_text("```bash\nnever closed\n")
    with pytest.raises(ValueError, match="line 1: this block is not closed"):
        list(read_blocks(page))


def test_readme_has_the_two_commands_a_picture_and_what_both_checkpoints_are() -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"^    make (\w+) ", readme, flags=re.MULTILINE) == ["demo", "test"]
    (picture,) = re.findall(r'<img src="([^"]+)"', readme)
    assert (ROOT / picture).exists()
    assert {"bundled", "sdhubert_base"} <= set(re.findall(r"`(\w+)`", readme))
    assert len(readme.splitlines()) < 60  # all else is on the site
