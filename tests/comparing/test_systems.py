"""Names of systems as they are typed."""

import pytest

from sdhubert_ray.comparing.systems import Contender, parse_systems
from sdhubert_ray.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bundled", [("bundled", "bundled", "bundled")]),
        ("energy, uniform ,", [("energy", "energy", None), ("uniform", "uniform", None)]),
        ("sylber=s3://b/sylber.ckpt", [("sylber", "sylber", "s3://b/sylber.ckpt")]),
        ("mine (noise):sylber=a=b.ckpt", [("mine (noise)", "sylber", "a=b.ckpt")]),
        (
            "sylber=x/one.ckpt,sylber=y/two.ckpt",
            [("sylber one.ckpt", "sylber", "x/one.ckpt"), ("sylber two.ckpt", "sylber", "y/two.ckpt")],
        ),
        ("a:uniform,uniform", [("a", "uniform", None), ("uniform", "uniform", None)]),
    ],
)
def test_what_is_named(text: str, expected: list[tuple[str, str, str | None]]) -> None:
    assert [(one.title, one.name, one.checkpoint) for one in parse_systems(text)] == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--systems names none; the systems are bundled, mel-valleys, energy, uniform, and with =CHECKPOINT"),
        (" , ", "--systems names none"),
        ("sylbr=x", "--systems has 'sylbr', which is no system; the systems are"),
        ("sylber", r"system sylber needs its checkpoint, as in sylber=FILE; the weights are .*sylber\.ckpt"),
        ("sylber=", "system sylber needs its checkpoint"),
        ("bundled=x.pt", "system bundled takes no checkpoint, but has 'x.pt'"),
        ("energy=x.pt", "system energy takes no checkpoint"),
        ("uniform,uniform", "'uniform' and 'uniform', which are called alike; give one a title, as in other:uniform$"),
        ("sylber=a/x.ckpt,sylber=b/x.ckpt", "called alike; give one a title, as in other:sylber=b/x.ckpt"),
        ("A b:uniform,a-B:energy", "called alike"),
        ("..:uniform", r"the title '\.\.'; it needs a letter or a digit"),
        ("§:uniform", "needs a letter or a digit"),
    ],
)
def test_what_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_systems(text)


@pytest.mark.parametrize(
    ("title", "folder"),
    [("Sylber (noise)", "Sylber-noise"), ("../../etc", "etc"), (".hidden", "hidden"), ("a/b\\c", "a-b-c")],
)
def test_a_title_is_a_folder_below_the_output(title: str, folder: str) -> None:
    assert Contender(title, "uniform", None).folder == folder
