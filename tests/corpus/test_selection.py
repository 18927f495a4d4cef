"""What is taken of an input: conditions, splits, samples; no id twice; memory flat in the number of rows."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_inputs import list_table, read, refusal, touch, write_hf, write_manifest, write_tar

from sdhubert_ray.corpus import Selection, list_input
from sdhubert_ray.corpus import write_manifest as write_pieces
from sdhubert_ray.corpus.selection import Seen, Source, select
from sdhubert_ray.errors import UserError

ROWS = [
    {"id": "a", "uri": "a.wav", "split": "train", "age": 31, "score": 1.0, "clean": True, "note": "x=y"},
    {"id": "b", "uri": "b.wav", "split": "test", "age": 4, "score": 2.5, "clean": False, "note": None},
    {"id": "c", "uri": "c.wav", "split": "test", "age": 31, "score": 2.5, "clean": True, "note": ""},
    {"id": "d", "uri": "d.wav", "split": None, "age": None, "score": None, "clean": None, "note": "x=y"},
]


def exhaust(source, *selection):
    return read(list_input(str(source), *selection))


def source_of(tables):
    schema = pa.schema([("id", pa.string()), ("uri", pa.string())])
    tables = [table.cast(schema) for table in tables]
    return Source("input", schema, lambda: iter(tables))


def in_batches(names, cuts):
    table = pa.table(
        {"id": pa.array(names, pa.string()), "uri": pa.array([f"{name}.wav" for name in names], pa.string())}
    )
    bounds = [0, *sorted(min(cut, len(names)) for cut in cuts), len(names)]
    return [table.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)]


# -- where


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["split=test"], "bc"),
        (["split=test", "age=31"], "c"),
        (["age=31"], "ac"),
        (["age=031"], "ac"),
        (["score=1"], "a"),
        (["score=2.5"], "bc"),
        (["clean=true"], "ac"),
        (["clean=False"], "b"),
        (["note=x=y"], "ad"),
        (["id=b"], "b"),
    ],
)
def test_conditions_all_have_to_hold(tmp_path, kind, where, expected):
    if kind == "csv":  # which has no null beside the empty text, and writes None out
        rows = [{name: "" if value is None else value for name, value in row.items()} for row in ROWS]
    else:
        rows = ROWS
    path = write_manifest(tmp_path, rows, kind)
    assert "".join(list_table(path, Selection(where=tuple(where))).column("id").to_pylist()) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("spilt=test", "'split'"),
        ("nothing=1", "it has id, uri"),
        ("age=old", "int64"),
        ("split=dev", "no row of split=dev"),
        ("split", "column=value"),
        ("=x", "column=value"),
    ],
)
def test_conditions_that_cannot_be_are_refused(tmp_path, where, expected):
    path = write_manifest(tmp_path, ROWS)
    assert expected in refusal(lambda: list_input(path, Selection(where=(where,))))


def test_a_list_is_compared_with_nothing(tmp_path):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "a.wav", "words": ["x"]}])
    assert "'words'" in refusal(list_input, path, Selection(where=("words=x",)))


# -- splits


LIBRISPEECH = [
    "dev-clean/84/121123/84-121123-0000.flac",
    "dev-clean/84/121123/84-121123-0001.flac",
    "test-clean/1089/134686/1089-134686-0000.flac",
    "test-other/367/130732/367-130732-0003.flac",
]


def fill_librispeech(root):
    touch(root, *LIBRISPEECH, "test-clean/1089/134686/1089-134686.trans.txt", "SPEAKERS.TXT")


def test_librispeech_as_a_whole(tmp_path):
    fill_librispeech(tmp_path)
    listing = list_input(str(tmp_path))
    table = read(listing)
    assert table.column("id").to_pylist() == LIBRISPEECH
    assert table.column("split").to_pylist() == ["dev-clean"] * 2 + ["test-clean", "test-other"]
    assert table.column("speaker").to_pylist() == ["84", "84", "1089", "367"]
    assert table.column("chapter").to_pylist() == ["121123", "121123", "134686", "130732"]
    assert listing.ignored == 2


def test_librispeech_by_split(tmp_path):
    fill_librispeech(tmp_path)
    listing = list_input(str(tmp_path), Selection(splits=("test-clean",)))
    (row,) = read(listing).to_pylist()
    assert (row["id"], row["uri"]) == (LIBRISPEECH[2], f"{tmp_path}/{LIBRISPEECH[2]}")
    assert (row["split"], row["speaker"], row["chapter"]) == ("test-clean", "1089", "134686")
    assert listing.ignored == 1
    both = list_table(tmp_path, Selection(splits=("test-other", "dev-clean/", "test-other")))
    assert both.column("id").to_pylist() == [LIBRISPEECH[3], *LIBRISPEECH[:2]]
    message = refusal(list_input, str(tmp_path), Selection(splits=("test-clean", "test")))
    assert "no split 'test'" in message
    assert "dev-clean, test-clean, test-other" in message


def test_a_split_of_another_layout_is_told_too(tmp_path):
    touch(tmp_path, "train/x/a.wav", "dev/b.wav")
    (row,) = list_table(tmp_path, Selection(splits=("dev",))).to_pylist()
    assert (row["id"], row["split"]) == ("dev/b.wav", "dev")
    assert "speaker" not in row
    assert "split" not in list_table(tmp_path).column_names


def test_one_file_of_another_name_does_not_hide_the_layout(tmp_path):
    touch(tmp_path, LIBRISPEECH[0], "dev-clean/84/121123/remix.flac")
    table = list_table(tmp_path)
    assert table.column("speaker").to_pylist() == ["84", None]


def test_splits_of_a_manifest_are_its_column(tmp_path):
    path = write_manifest(tmp_path, ROWS)
    assert list_table(path, Selection(splits=("test",))).column("id").to_pylist() == ["b", "c"]
    assert list_table(path, Selection(splits=("test", "train"))).column("id").to_pylist() == ["a", "b", "c"]
    assert list_table(path, Selection(splits=("test",), where=("age=4",))).column("id").to_pylist() == ["b"]
    message = refusal(exhaust, path, Selection(splits=("test", "dev")))
    assert "no split 'dev'" in message
    assert "it has test, train" in message


def test_splits_of_what_has_none(tmp_path):
    path = write_manifest(tmp_path, [{"id": "a", "uri": "a.wav", "spilt": "test"}])
    assert "'spilt'" in refusal(list_input, path, Selection(splits=("test",)))
    tar = write_tar(tmp_path / "x.tar", [("a.wav", b"")])
    assert "--split" in refusal(list_input, tar, Selection(splits=("test",)))
    assert "split is empty" in refusal(lambda: Selection(splits=("",)))


def test_splits_of_parquet_with_audio(tmp_path):
    path = write_hf(tmp_path / "x.parquet", [(b"a", "a"), (b"b", "b")], split=["train", "test"])
    (row,) = list_table(path, Selection(splits=("test",))).to_pylist()
    assert (row["id"], row["member"]) == ("b", "1")


# -- samples


names = st.lists(st.text(min_size=1, max_size=6), unique=True, min_size=1, max_size=60)
cuts = st.lists(st.integers(0, 60), max_size=5)


def sample(ids, limit, where_cut=()):
    listing = select(source_of(in_batches(ids, where_cut)), Selection(limit=limit))
    return read(listing).column("id").to_pylist()


@settings(deadline=None, max_examples=150)
@given(names, st.integers(1, 70), cuts)
def test_a_sample_is_of_its_size_and_in_order_however_it_came(ids, limit, where_cut):
    found = sample(ids, limit, where_cut)
    assert len(found) == min(limit, len(ids))
    chosen = set(found)
    assert found == [name for name in ids if name in chosen]
    assert set(sample(ids[::-1], limit)) == chosen


@settings(deadline=None, max_examples=100)
@given(names, st.integers(1, 59), st.integers(1, 30))
def test_a_sample_changes_little_when_the_corpus_grows(ids, old_size, limit):
    """What was sampled and is sampled no more has made room for something new; nothing old comes in."""
    old = set(ids[:old_size])
    before, after = set(sample(ids[:old_size], limit)), set(sample(ids, limit))
    assert after & old <= before


def test_a_sample_is_spread_over_the_input():
    ids = [f"{number:05d}" for number in range(20_000)]
    positions = np.array([int(name) for name in sample(ids, 1_000, [7_000, 7_001])])
    counts = np.histogram(positions, bins=10, range=(0, 20_000))[0]
    assert counts.min() > 60  # of 100 expected: four standard deviations
    assert counts.max() < 140


def test_a_sample_of_pieces_counts_recordings(tmp_path):
    path = write_manifest(
        tmp_path, [{"id": str(row), "uri": f"{row}.wav", "duration": 100.0} for row in range(50)], "csv"
    )
    write_pieces(list_input(path), str(tmp_path / "pieces.parquet"), 30.0)
    table = list_table(tmp_path / "pieces.parquet", Selection(limit=7))
    assert table.num_rows == 28
    assert len(set(table.column("id").to_pylist())) == 7
    assert set(list_table(path, Selection(limit=7)).column("id").to_pylist()) == set(table.column("id").to_pylist())


def test_a_limit_of_nothing_is_refused():
    for limit in (0, -3):
        with pytest.raises(UserError, match=f"limit is {limit}"):
            Selection(limit=limit)


# -- ids that stand twice


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12))
def test_what_was_seen_is_what_a_set_holds(batches):
    seen, known = Seen(), set()
    for batch in batches:
        expected = []
        for position, value in enumerate(batch):
            if value in known:
                expected.append(position)
            known.add(value)
        assert seen.add(np.array(batch, np.uint64)).tolist() == expected


@settings(deadline=None, max_examples=100)
@given(names, cuts, st.data())
def test_an_id_is_refused_wherever_it_stands_again(ids, where_cut, data):
    first = data.draw(st.integers(0, len(ids) - 1))
    again = data.draw(st.integers(first + 1, len(ids)))
    twice = [*ids[:again], ids[first], *ids[again:]]
    tables = in_batches(twice, where_cut)
    tables = [
        table.set_column(1, "uri", pa.array([f"uri {row}" for row in range(at, at + len(table))], pa.string()))
        for table, at in zip(tables, np.cumsum([0, *map(len, tables)]), strict=False)
    ]
    with pytest.raises(UserError) as caught:
        read(select(source_of(tables), Selection()))
    assert f"{ids[first]!r} stands twice, for uri {first} and uri {again}" in str(caught.value)


def test_ids_are_checked_among_what_is_selected(tmp_path):
    rows = [{"id": "a", "uri": "1.wav", "lang": "de"}, {"id": "a", "uri": "2.wav", "lang": "en"}]
    path = write_manifest(tmp_path, rows)
    assert "twice" in refusal(list_input, path)
    assert list_table(path, Selection(where=("lang=en",))).column("uri").to_pylist() == [f"{tmp_path}/2.wav"]


def test_ids_twice_far_apart_in_a_streamed_manifest(tmp_path):
    ids = [f"id {row}" for row in range(30_000)]
    ids[29_999] = "id 17"
    pq.write_table(pa.table({"id": ids, "uri": [f"{row}.wav" for row in range(30_000)]}), tmp_path / "m.parquet")
    message = refusal(exhaust, tmp_path / "m.parquet")
    assert f"'id 17' stands twice, for {tmp_path}/17.wav and {tmp_path}/29999.wav" in message


# -- memory


PEAK = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from sdhubert_ray.corpus import Selection, cut_pieces, list_input, split_units
    def batches():
        for batch in list_input(sys.argv[1], Selection(where=("lang=de",))).batches:
            yield cut_pieces(batch, 600.0)
    rows = sum(unit.num_rows for unit in split_units(batches(), lambda *_: 3600.0, 400))
    # Not getrusage, which counts the process that started this one too.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(rows, int(status["VmHWM"].split()[0]))
    """
)


@pytest.mark.seconds
@pytest.mark.parametrize("group_rows", [10_000, 300_000])
def test_memory_does_not_grow_with_the_rows(tmp_path, group_rows):
    """180,000 rows more, of half a kilobyte each: held, they would take 97 MB."""
    peaks = {}
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.parquet"
        columns = {
            "id": [f"speaker/chapter/{row:09d}.flac" for row in range(count)],
            "uri": [f"s3://bucket/corpus/speaker/chapter/{row:09d}.flac" for row in range(count)],
            "duration": [12.5] * count,
            "lang": ["de"] * count,
            "text": [f"{row:09d} " + "words and words " * 28 for row in range(count)],
        }
        pq.write_table(pa.table(columns), path, row_group_size=group_rows)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, path], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        rows, peaks[count] = map(int, done.stdout.split())
        assert rows == count
    assert peaks[200_000] - peaks[20_000] < 50_000  # kilobytes
