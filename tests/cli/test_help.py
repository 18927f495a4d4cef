"""What a command tells of itself: help that fits a screen, examples that are commands, completion, a version."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import sdhubert

import sdhubert_ray
from sdhubert_ray import cli
from sdhubert_ray.cli.help import MORE

LINES, COLUMNS = 40, 100


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands, by what is typed for them."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(cli.app), ()))
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}
IDS = ["-".join(path) or "sdhubert" for path in COMMANDS]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def examples(help_text: str) -> list[str]:
    return help_text.partition("\nExamples:\n")[2].splitlines()


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("path", COMMANDS, ids=IDS)
def test_help_fits_a_screen_and_ends_with_two_examples_of_the_command(path: tuple[str, ...]) -> None:
    text = sdhubert(*path, "--help").stdout
    assert len(text.splitlines()) <= LINES
    assert max(map(len, text.splitlines())) <= COLUMNS
    shown = examples(text)
    assert len(shown) == 2
    assert all(shlex.split(line)[: 1 + len(path)] == ["sdhubert", *path] for line in shown)


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("path", COMMANDS, ids=IDS)
def test_examples_are_commands(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is parsed from its first word to its last, and would have called what it names."""
    root = typer.main.get_command(cli.app)
    called: list[tuple[str, ...]] = []
    for name, command in walk(root, ()):
        if not hasattr(command, "commands"):
            monkeypatch.setattr(command, "callback", lambda name=name, **_: called.append(name))
    for line in examples(sdhubert(*path, "--help").stdout):
        assert not root.main(shlex.split(line)[1:], "sdhubert", standalone_mode=False)
    assert len(called) == 2
    assert all(name[: len(path)] == path for name in called)


def test_an_option_that_few_need_is_named_and_told_of_on_demand() -> None:
    short, whole = sdhubert("segment", "--help").stdout, sdhubert("segment", "--help-all").stdout
    assert "--profile" in short.partition(f"{MORE} (--help-all):")[2]
    assert "Print where the time went" not in short
    assert "Print where the time went" in whole.partition(f"{MORE}:")[2]
    assert "--help-all" not in sdhubert("export", "--help").stdout


def test_the_examples_of_the_first_page_do_what_they_say(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speech").symlink_to(golden / "audio")
    monkeypatch.chdir(tmp_path)
    for line in examples(sdhubert("--help").stdout) + examples(sdhubert("status", "--help").stdout):
        assert sdhubert(*shlex.split(line)[1:]).stdout


def test_the_version() -> None:
    assert sdhubert("--version").stdout == f"sdhubert_ray {sdhubert_ray.__version__}\n"
    assert sdhubert_ray.__version__[0].isdigit()


def test_the_version_costs_nothing() -> None:
    code = (
        "import sys, sdhubert_ray; sdhubert_ray.__version__; sys.exit(len({'torch', 'numpy', 'ray'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("sdhubert se", ["segment"]),
        ("sdhubert segment in out --dev", ["--device"]),
        ("sdhubert segment in out --log", ["--log-format"]),
        ("sdhubert segment in out --engine ", ["auto", "local", "ray"]),
        ("sdhubert segment in out --checkpoint b", ["bundled"]),
        ("sdhubert evaluate boundary --missing s", ["skip"]),
        ("sdhubert segment spee", []),  # files are the shell's
    ],
)
def test_a_shell_completes(typed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SDHUBERT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    assert sdhubert().stdout.split() == expected


def test_completion_is_installed_for_the_shell_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By typer; `complete -o default` leaves what we know nothing of to the shell: names of files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: "bash")
    sdhubert("--install-completion")
    script = next((tmp_path / ".bash_completions").iterdir())
    assert "complete -o default" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
