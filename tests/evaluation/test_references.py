"""Reference syllables read: JSON and TextGrids, good ones against praatio, damaged ones with one sentence."""

import itertools
import json

import numpy as np
import pytest
from evaluation_inputs import EVALUATION
from hypothesis import given, settings
from hypothesis import strategies as st
from praatio import textgrid as praat
from praatio.utilities.constants import Interval

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import load_references
from sdhubert_ray.evaluation.syllabify import Phone, is_silence, syllabify
from sdhubert_ray.evaluation.textgrid import parse_textgrid
from sdhubert_ray.output import FileResult
from sdhubert_ray.output.formats import to_textgrid

LABELS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5)


def refusal(uri, tier=None):
    with pytest.raises(UserError) as caught:
        load_references(str(uri), tier)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def write_grid(path, tiers, form="long_textgrid"):
    """A TextGrid by praatio: name -> [(start, end, label)]."""
    grid = praat.Textgrid()
    for name, rows in tiers.items():
        grid.addTier(praat.IntervalTier(name, [Interval(*row) for row in rows], 0, max(row[1] for row in rows) + 0.5))
    grid.save(str(path), form, includeBlankSpaces=True, reportingMode="silence")
    return path


def split(text, gap_after=(), words=None):
    """Syllables of phones of a tenth of a second each, as their labels."""
    phones, at = [], 0.0
    for number, label in enumerate(text.split()):
        phones.append(Phone(at, at + 0.1, label, words[number] if words else None))
        at += 0.2 if number in gap_after else 0.1
    return [label for _, _, label in syllabify(phones, "here")]


def test_golden_json():
    found = load_references(str(EVALUATION / "syllables_test.json"))
    entries = json.loads((EVALUATION / "syllables_test.json").read_text())
    assert [one.id for one in found] == list(entries)
    for one in found:
        entry = entries[one.id]
        assert one.file_name == entry["file_name"]
        assert one.labels == tuple(syllable["label"] for syllable in entry["syllables"])
        assert one.syllables.tolist() == [[float(s["start"]), float(s["end"])] for s in entry["syllables"]]


def test_json_of_numbers_and_text_unsorted_with_other_keys(tmp_path):
    syllables = [
        {"start": 0.5, "end": "0.81", "label": "B", "stress": 1},
        {"start": "0", "end": 0.51, "label": "A"},
    ]
    path = write(tmp_path / "r.json", {"x": {"file_name": "a.wav", "syllables": syllables, "speaker": 3}})
    (one,) = load_references(str(path))
    assert one.labels == ("A", "B")
    assert one.syllables.tolist() == [[0, 0.51], [0.5, 0.81]]
    empty = write(tmp_path / "e.json", {"x": {"file_name": "a.wav", "syllables": []}})
    assert load_references(str(empty))[0].syllables.shape == (0, 2)


def entry(**values):
    return {"x": {"file_name": "a.wav", "syllables": [{"start": 0, "end": 1, "label": "A", **values}]}}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ["cannot be read", "file_name"]),
        ("", ["cannot be read"]),
        ("[" * 100_000, ["cannot be read"]),
        ("[]", ["is a list"]),
        ("{}", ["has no recording"]),
        ('{"x": {}, "x": {}}', ["has 'x' twice"]),
        ({"x": 3}, ["'x' has no file_name"]),
        ({"x": {"file_name": "a"}}, ["'x' has no list of syllables"]),
        ({"x": {"file_name": "a", "syllables": [3]}}, ["syllable 0 has no label"]),
        (entry(label=None), ["syllable 0 has no label"]),
        (entry(start=None), ["syllable 0 has start None, which is no number"]),
        (entry(start=True), ["syllable 0 has start True"]),
        (entry(end="late"), ["syllable 0 has end 'late'"]),
        (entry(end=0), ["'x': syllable 0 goes from 0.0 to 0.0 s"]),
        (entry(start=2), ["goes from 2.0 to 1.0"]),
        (entry(start=-1), ["goes from -1.0 to 1.0"]),
        (entry(end="nan"), ["goes from 0.0 to nan"]),
        (entry(end="inf"), ["goes from 0.0 to inf"]),
    ],
)
def test_damaged_json(content, parts, tmp_path):
    said = refusal(write(tmp_path / "r.json", content))
    assert str(tmp_path / "r.json") in said
    for part in parts:
        assert part in said


def test_places_without_references(tmp_path):
    assert "is not there" in refusal(tmp_path / "nowhere.json")
    assert "is not there" in refusal(tmp_path / "nowhere.TextGrid")
    (tmp_path / "folder").mkdir()
    assert "without TextGrids" in refusal(tmp_path / "folder")


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@given(
    rows=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000), LABELS), min_size=1, max_size=6),
    newline=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=15, deadline=None)
def test_textgrids_that_praatio_writes(form, encoding, rows, newline, tmp_path_factory):
    at, intervals = 0.0, []
    for gap, length, label in rows:
        intervals.append((at + gap / 1000, at + (gap + length) / 1000, label))
        at = intervals[-1][1]
    path = write_grid(tmp_path_factory.mktemp("grids") / "a.TextGrid", {"x": intervals, "y": intervals[:1]}, form)
    text = path.read_text("utf-8").rstrip("\n").replace("\n", newline)
    path.write_bytes(text.encode(encoding))
    found = load_references(str(path), "X")[0]
    spoken = [row for row in intervals if not is_silence(row[2])]
    assert found.labels == tuple(label for _, _, label in spoken)
    np.testing.assert_allclose(found.syllables, np.reshape([row[:2] for row in spoken], (-1, 2)), atol=1e-9)
    # Whatever is cut off is missed.
    for cut in range(0, len(text) - 1, max(1, len(text) // 40)):
        with pytest.raises(UserError):
            parse_textgrid(text[:cut], "here")


def test_quotes_lines_comments_and_small_numbers_as_praat_has_them():
    text = (
        '"ooTextFile"\n"TextGrid"\n0 2.5 ! it ends "here"\n<exists> 2\n'
        '"TextTier" "points" 0 2.5 1 0.5 "5 ""x"" 6"\n'
        '"IntervalTier" "a ""b""\nc" 0 2.5 2 0 1e-05 "one ! 7" 1.0E-5 2.5 "<exists>"'
    )
    points, intervals = parse_textgrid(text, "here")
    assert (points.of_intervals, points.intervals) == (False, ((0.5, 0.5, '5 "x" 6'),))
    assert intervals.name == 'a "b"\nc'
    assert intervals.intervals == ((0.0, 1e-5, "one ! 7"), (1e-5, 2.5, "<exists>"))


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "ends where a text should follow"),
        (b"RIFF\x00\xff", "neither UTF-8 nor UTF-16"),
        (b"ooBinaryFile\x08TextGrid", "ends where"),
        (b'"ooTextFile" "PitchTier" 0 1 <exists> 1', "it is a PitchTier"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "Tier" "x" 0 1 0', "class 'Tier'"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "x" 0 "1" 0', "stands where a number should"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1.5', "cannot be read as a TextGrid"),
        (b'"ooTextFile" "TextGrid" 0 1 <absent>', "its tiers are none"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "TextTier" "syllables" 0 1 0', "has points"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "syll" 0 1 1 -1 1 "a"', "goes from -1.0 to 1.0"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "syll" 0 1 1 1 1 "a"', "goes from 1.0 to 1.0"),
    ],
)
def test_damaged_textgrids(data, part, tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_bytes(data)
    said = refusal(path)
    assert part in said
    assert str(path) in said


def test_a_folder_of_textgrids_is_named_by_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    write_grid(tmp_path / "sub/b.textgrid", {"Syllables": [(0.1, 0.2, "b")]})
    write_grid(tmp_path / "a.TextGrid", {"syll": [(0.1, 0.2, "a"), (0.2, 0.3, "sil")]})
    (tmp_path / "a.wav").write_bytes(b"")
    found = load_references(str(tmp_path))
    assert [(one.id, one.file_name, one.labels) for one in found] == [
        ("a", "a", ("a",)),
        ("sub/b", "sub/b", ("b",)),
    ]
    assert load_references(str(tmp_path / "sub/b.textgrid"))[0].file_name == "b"


def test_textgrids_in_an_object_store(tmp_path, s3_bucket):
    path = write_grid(tmp_path / "a.TextGrid", {"syll": [(0.1, 0.2, "a")]})
    storage.put(f"{s3_bucket}/grids/sub/a.TextGrid", path.read_bytes())
    for uri in (f"{s3_bucket}/grids", f"{s3_bucket}/grids/sub/a.TextGrid"):
        assert load_references(uri)[0].labels == ("a",)


def test_our_own_textgrids_are_references(tmp_path):
    segments = np.array([[0.1, 0.3], [0.3, 0.56], [1.0, 1.2]])
    result = FileResult("a.wav", "/a.wav", "ok", None, 2.0, 100, segments, None, np.array([5, 0, 7]))
    path = write(tmp_path / "a.TextGrid", to_textgrid(result))
    (one,) = load_references(str(path))
    np.testing.assert_allclose(one.syllables, segments)
    assert one.labels == ("1", "2", "3")
    assert load_references(str(path), "units")[0].labels == ("5", "0", "7")


def test_tiers_are_found_by_name(tmp_path):
    phones = [(0.0, 0.1, "K"), (0.1, 0.3, "AE1"), (0.3, 0.4, "T")]
    path = write_grid(tmp_path / "a.TextGrid", {"words": [(0.0, 0.4, "cat")], "phones": phones, "other": [(0, 1, "x")]})
    assert load_references(str(path))[0].labels == ("K-AE-T",)
    assert load_references(str(path), "OTHER")[0].labels == ("x",)
    assert load_references(str(path), "words")[0].labels == ("cat",)
    assert "no tier 'syl'; its tiers are 'words', 'phones', 'other'" in refusal(path, "syl")
    two = write_grid(tmp_path / "b.TextGrid", {"A - phones": phones, "B - phones": phones})
    assert "more than one tier of syllables or phones" in refusal(two)
    assert load_references(str(two), "b - phones")[0].labels == ("K-AE-T",)
    none = write_grid(tmp_path / "c.TextGrid", {"words": [(0.0, 0.4, "cat")]})
    assert "no tier of syllables or phones; its tiers are 'words'" in refusal(none)


def test_words_keep_syllables_apart_where_they_are_known(tmp_path):
    # "gray tape" and "great ape" have the same phones.
    labels = ["G", "R", "EY1", "T", "EY1", "P"]
    phones = [(number / 10, (number + 1) / 10, label) for number, label in enumerate(labels)]
    grid = {"phones": phones}
    assert load_references(str(write_grid(tmp_path / "a.TextGrid", grid)))[0].labels == ("G-R-EY", "T-EY-P")
    grid["words"] = [(0, 0.4, "great"), (0.4, 0.6, "ape")]
    assert load_references(str(write_grid(tmp_path / "b.TextGrid", grid)))[0].labels == ("G-R-EY-T", "EY-P")
    # Phones in no word are a stretch of their own.
    grid["words"] = [(0.1, 0.4, "rate")]
    assert load_references(str(write_grid(tmp_path / "d.TextGrid", grid)))[0].labels == ("G-R-EY-T", "EY-P")
    grid["words"] = [(0, 0.4, "great"), (0.4, 0.6, "ape")]
    speakers = {"A - words": grid["words"], "A - phones": phones}
    assert load_references(str(write_grid(tmp_path / "c.TextGrid", speakers)))[0].labels == ("G-R-EY-T", "EY-P")


@pytest.mark.parametrize(
    ("phones", "syllables"),
    [
        ("HH AH0 L OW1", "HH-AH L-OW"),
        ("EH1 K S T R AH0", "EH-K S-T-R-AH"),
        ("S IH1 NG ER0", "S-IH-NG ER"),
        ("AH1 N Y AH0 N", "AH-N Y-AH-N"),
        ("S T R EH1 NG K TH S", "S-T-R-EH-NG-K-TH-S"),
        ("K AA1 N S T AH0 N T", "K-AA-N S-T-AH-N-T"),
        ("AE1 T L AH0 S", "AE-T L-AH-S"),
        # TIMIT: small letters, closures before their releases, flaps, syllabic consonants, a silence within a cluster.
        ("h# sh iy hv eh dcl jh axr h#", "SH-IY HV-EH JH-AXR"),
        ("b ah dx el", "B-AH DX-EL"),
        ("bcl b ah tcl en", "B-AH T-EN"),
        ("ah gcl s kcl k uw", "AH-G S-K-UW"),
        ("iy s epi l ow", "IY S-L-OW"),
        ("iy s tcl t r iy tcl", "IY S-T-R-IY-T"),
    ],
)
def test_syllables_of_phones(phones, syllables):
    assert split(phones) == syllables.split()


def test_silences_and_gaps_part_syllables():
    assert split("AH T sil AH sp AH spn <p:> AH") == ["AH-T", "AH", "AH", "AH"]
    assert split("AH T AH", gap_after=(1,)) == ["AH-T", "AH"]
    assert split("AH T AH", gap_after=(0,)) == ["AH", "T-AH"]
    assert split("S sil AH sil S T") == ["AH"]  # consonants alone are no syllable
    assert split("") == split("sil") == []
    for label in ("", " ", "SIL", "pau", "h#", "<usb>", "[noise]", "{SL}", "(x)"):
        assert is_silence(label)
    for label in ("S", "<", "AH0", "silk"):
        assert not is_silence(label)


def test_words_without_a_nucleus_join_a_neighbour():
    assert split("AH V DH K AE T", words=[0, 0, 1, 2, 2, 2]) == ["AH-V-DH", "K-AE-T"]
    assert split("DH K AE T", words=[0, 1, 1, 1]) == ["DH-K-AE-T"]
    assert split("DH S sil AH", words=[0, 1, 2, 3]) == ["AH"]


@given(
    st.lists(
        st.sampled_from(["AH0", "IY1", "EL", "T", "S", "K", "R", "L", "NG", "N", "Y", "tcl", "epi", "sil"]),
        max_size=25,
    ),
    st.data(),
)
def test_each_nucleus_is_a_syllable_and_none_overlap(labels, data):
    words = sorted(data.draw(st.lists(st.integers(0, 5), min_size=len(labels), max_size=len(labels))))
    phones = [
        Phone(n / 10, (n + 1) / 10, label, word) for n, (label, word) in enumerate(zip(labels, words, strict=True))
    ]
    found = syllabify(phones, "here")
    nuclei = [phone for phone in phones if phone.label in ("AH0", "IY1", "EL")]
    assert len(found) == len(nuclei)
    for (start, end, _), nucleus in zip(found, nuclei, strict=True):
        assert start <= nucleus.start < nucleus.end <= end
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))
    # All phones of a stretch with a nucleus are in a syllable.
    inside = sum(any(start <= phone.start < end for start, end, _ in found) for phone in phones if phone.label != "sil")
    lost = 0
    for stretch in " ".join(labels).split("sil"):
        if not {"AH0", "IY1", "EL"} & {*stretch.split()}:
            lost += len(stretch.split())
    assert inside == sum(label != "sil" for label in labels) - lost


@pytest.mark.parametrize("phone", ["ɹ", "t͡ʃ", "@", "E", "a", "1"])
def test_phones_of_other_alphabets_are_refused(phone, tmp_path):
    path = write_grid(tmp_path / "a.TextGrid", {"phones": [(0.0, 0.1, "AH0"), (0.1, 0.25, phone)]})
    said = refusal(path)
    assert f"tier 'phones' has phone {phone!r} at 0.100 s, which is not ARPAbet" in said
    assert str(path) in said


PHONES = [
    (0.0, 0.1, "HH"),
    (0.1, 0.25, "AH0"),
    (0.25, 0.3, "L"),
    (0.3, 0.5, "OW1"),
    (0.5, 0.7, "sil"),
    (0.7, 0.9, "en"),
]
VOWELS = [[0.1, 0.25], [0.3, 0.5], [0.7, 0.9]]


def test_vowels_are_told_where_there_are_phones(tmp_path):
    syllables = {"syllables": [(0.0, 0.25, "a"), (0.25, 0.5, "b")]}
    for name, tiers, wanted in (
        ("alone", {"phones": PHONES}, VOWELS),
        ("beside", {"phones": PHONES, **syllables}, VOWELS),
        ("none", syllables, None),
        ("others", {"phones": [(0.0, 0.1, "ɔ"), *PHONES[1:]], **syllables}, None),
    ):
        (found,) = load_references(str(write_grid(tmp_path / f"{name}.TextGrid", tiers)))
        assert (None if found.nuclei is None else found.nuclei.tolist()) == wanted, name
    speakers = {"A - phones": PHONES[:2], "B - phones": PHONES[3:], "B - syllables": [(0.3, 0.5, "b")]}
    path = str(write_grid(tmp_path / "speakers.TextGrid", speakers))
    assert load_references(path, "B - syllables")[0].nuclei.tolist() == VOWELS[1:]
    assert load_references(path, "A - phones")[0].nuclei.tolist() == VOWELS[:1]
    silent = write_grid(tmp_path / "silent.TextGrid", {"phones": [(0.0, 0.5, "sil")]})
    assert load_references(str(silent))[0].nuclei.shape == (0, 2)
    assert load_references(str(EVALUATION / "syllables_test.json"))[0].nuclei is None
