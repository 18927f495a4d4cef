"""Manifests of other tools, and of spreadsheets: each read as its writer means it, or refused in one sentence."""

import gzip
import json

import pytest
from manifest_inputs import ids_and_uris, list_table, refusal, touch

from sdhubert_ray.corpus import Selection, list_input, texts

ROWS = [
    {"audio_filepath": "a.wav", "duration": 3.5, "text": "één"},
    {"audio_filepath": "b.wav", "duration": 1.0, "text": "two", "offset": 2.0},
]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def columns(path, *names):
    rows = list_table(path).to_pylist()
    return [tuple(row.get(name) for name in names) for row in rows]


# -- JSON


@pytest.mark.parametrize("name", ["train_manifest.json", "manifest.jsonl", "MANIFEST.JSON", "manifest.json.gz"])
@pytest.mark.parametrize("form", ["lines", "list"])
def test_nemo_manifests_are_called_json(tmp_path, name, form):
    path = tmp_path / name
    text = lines(ROWS) if form == "lines" else json.dumps(ROWS, indent=2)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert columns(path, "uri", "start", "end", "duration", "text") == [
        (f"{tmp_path}/a.wav", None, None, 3.5, "één"),
        (f"{tmp_path}/b.wav", 2.0, 3.0, None, "two"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n "id": "a",\n "uri": "a.wav"\n}\n', "line 1 is no JSON: "),
        ('[{"uri": "a.wav"},\n oops]', "line 2 is no JSON"),
        ('[{"uri": "a.wav"}, 3]', "entry 2 is no JSON object"),
        ('{"a.wav": [0, 1]}', "no column 'uri'"),
    ],
)
def test_json_that_is_no_manifest(tmp_path, text, told):
    path = tmp_path / "some.json"
    path.write_text(text)
    assert told in refusal(list_input, str(path))


def test_a_cut_gzip_is_refused(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(lines(ROWS).encode() * 200)[:-20])
    assert "no whole gzip file" in refusal(list_input, str(path))
    path.write_bytes(lines(ROWS).encode())
    assert "no whole gzip file" in refusal(list_input, str(path))


# -- tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_what_spreadsheets_save(tmp_path, encoding, delimiter, ending):
    path = tmp_path / f"manifest{ending}"
    rows = [["id", "uri", "speaker", "note"], ["001", "a b.wav", "Zoë", '"x, y; z"'], ["002", "c.wav", "Ann", '"t\tu"']]
    path.write_bytes("\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    expected = [("001", f"{tmp_path}/a b.wav", "Zoë", "x, y; z"), ("002", f"{tmp_path}/c.wav", "Ann", "t\tu")]
    assert columns(path, "id", "uri", "speaker", "note") == expected
    assert ids_and_uris(list_input(str(path), Selection(where=("speaker=Zoë",)))) == [expected[0][:2]]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_what_is_not_utf_8_is_refused_and_not_taken_for_bytes(tmp_path, ending):
    """A column of bytes would never be equal to what --where asks for."""
    path = tmp_path / f"m{ending}"
    text = {".csv": "id,uri,speaker\na,a.wav,Ann\nb,b.wav,Zoë\n", ".jsonl": '{"uri": "a.wav"}\n\n{"uri": "ë.wav"}\n'}
    path.write_bytes(text[ending].encode("latin-1"))
    assert "line 3 is not UTF-8; save it as UTF-8" in refusal(list_input, str(path))


def test_fairseq(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("/corpus/LibriSpeech\n1/2/1-2-0000.flac\t225360\n1/2/1-2-0001.flac\t255120\n")
    assert ids_and_uris(list_input(str(path))) == [
        ("1/2/1-2-0000.flac", "/corpus/LibriSpeech/1/2/1-2-0000.flac"),
        ("1/2/1-2-0001.flac", "/corpus/LibriSpeech/1/2/1-2-0001.flac"),
    ]
    path.write_text("uri\tframes\na.wav\t12\n")
    assert ids_and_uris(list_input(str(path))) == [("a.wav", f"{tmp_path}/a.wav")]


# -- lhotse: what its versions 1.x write, checked with 1.33

RECORDING = {
    "id": "rec",
    "sources": [{"type": "file", "channels": [0, 1], "source": "/data/rec.flac"}],
    "sampling_rate": 16_000,
    "num_samples": 160_000,
    "duration": 10.0,
    "channel_ids": [0, 1],
}
SUPERVISION = {"id": "s", "recording_id": "rec", "start": 0, "duration": 2.5, "speaker": "ann", "text": "hello"}


def cut(**values):
    whole = {"id": "cut", "start": 0.0, "duration": 10.0, "channel": 1, "supervisions": [], "recording": RECORDING}
    return {**whole, **values, "type": "MonoCut"}


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_cuts_of_lhotse(tmp_path, name):
    path = tmp_path / name
    cuts = [
        cut(id="whole"),
        cut(id="part", start=0.5, duration=2.5, channel=0, supervisions=[SUPERVISION]),
        cut(id="both", channel=[0, 1]),
        cut(id="two", supervisions=[SUPERVISION, SUPERVISION], channel=[1]),
    ]
    data = lines(cuts).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    names = ("id", "uri", "start", "end", "duration", "channel", "speaker", "text")
    assert columns(path, *names) == [
        ("whole", "/data/rec.flac", None, None, 10.0, 1, None, None),
        ("part", "/data/rec.flac", 0.5, 3.0, 10.0, 0, "ann", "hello"),
        ("both", "/data/rec.flac", None, None, 10.0, None, None, None),
        ("two", "/data/rec.flac", None, None, 10.0, 1, None, None),
    ]


def test_recordings_of_lhotse(tmp_path):
    path = tmp_path / "recordings.jsonl"
    path.write_text(lines([RECORDING]))
    assert columns(path, "id", "uri", "duration", "channel") == [("rec", "/data/rec.flac", 10.0, None)]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "m", "tracks": [{"cut": cut()}], "type": "MixedCut"},
        cut(recording={**RECORDING, "transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}),
        cut(recording={**RECORDING, "sources": RECORDING["sources"] * 2}),
        cut(recording={**RECORDING, "sources": [{"type": "command", "channels": [0], "source": "cat x"}]}),
    ],
)
def test_cuts_whose_audio_is_in_no_file_are_refused(tmp_path, row):
    path = tmp_path / "cuts.jsonl"
    path.write_text(lines([cut(), row]))
    message = refusal(list_input, str(path))
    assert "line 2 " in message
    assert "save_audios" in message


# -- Kaldi


def write_kaldi(folder, **files):
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text)
    return str(folder / "wav.scp")


def test_wav_scp(tmp_path):
    path = write_kaldi(tmp_path, wav_scp="rec1 /data/a b.wav\nrec2\tsub/c.wav\n")
    assert ids_and_uris(list_input(path)) == [("rec1", "/data/a b.wav"), ("rec2", f"{tmp_path}/sub/c.wav")]


def test_segments_of_kaldi(tmp_path):
    path = write_kaldi(
        tmp_path,
        wav_scp="rec1 /data/a.wav\nrec2 /data/b.wav\n",
        segments="utt1 rec1 0.5 2.25\nutt2 rec1 2.25 -1\nutt3  rec2  0 1.0\n",
        utt2spk="utt1 ann\nutt3 bob\n",
        reco2dur="rec1 4.0\n",
    )
    assert columns(path, "id", "uri", "start", "end", "duration", "speaker") == [
        ("utt1", "/data/a.wav", 0.5, 2.25, 4.0, "ann"),
        ("utt2", "/data/a.wav", 2.25, None, 4.0, None),
        ("utt3", "/data/b.wav", 0.0, 1.0, None, "bob"),
    ]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"wav_scp": "rec1 a.wav\nrec2 sph2pipe -f wav b.sph |\n"}, "line 2 is a command"),
        ({"wav_scp": "rec1 /x/data.ark:1234\n"}, "line 1 names a place in an archive"),
        ({"wav_scp": "rec1 a.wav\nrec1 b.wav\n"}, "line 2 names recording 'rec1' again"),
        ({"wav_scp": "rec1\n"}, "wav.scp, line 1 has nothing behind 'rec1'"),
        ({"wav_scp": "rec1 a.wav\n", "segments": "u rec9 0 1\n"}, "segments, line 1 is not: utterance, a recording"),
        ({"wav_scp": "rec1 a.wav\n", "segments": "u rec1 0 soon\n"}, "segments, line 1 has 'soon'"),
        ({"wav_scp": "rec1 a.wav\n", "segments": "u rec1 2 1\n"}, "start < end is needed"),
        ({"wav_scp": "rec1 a.wav\n", "segments": "\n"}, "has no rows"),
    ],
)
def test_kaldi_that_cannot_be_used(tmp_path, files, told):
    assert told in refusal(list_input, write_kaldi(tmp_path, **files))


@pytest.mark.parametrize("name", ["wav.scp", "cuts.jsonl.gz", "train.tsv", "manifest.json"])
def test_a_folder_of_a_manifest_alone_names_it(tmp_path, name):
    touch(tmp_path, name, "text", "README")
    assert f"it has a manifest: name {tmp_path}/{name}" in refusal(list_input, str(tmp_path))


# -- what was misread


def test_a_quote_without_its_other_one_swallows_no_line(tmp_path):
    """Transcripts begin with quotes."""
    for ending, mark in ((".tsv", "\t"), (".csv", ",")):
        path = tmp_path / f"m{ending}"
        lines = [
            f"uri{mark}text",
            f'a.wav{mark}"Hello he said',
            f"b.wav{mark}Hi",
            f'c.wav{mark}there"',
            f"d.wav{mark}x",
        ]
        path.write_text("\n".join(lines) + "\n")
        assert "row 1 has a line break in column 'text'" in refusal(list_input, str(path))


def test_spaces_behind_commas_and_utf_32(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes("id, uri\n001,a.wav\n".encode("utf-32"))
    assert ids_and_uris(list_input(str(path))) == [("001", f"{tmp_path}/a.wav")]


def test_own_columns_may_be_called_as_lhotse_calls_its(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"uri": "a.wav", "tracks": 2, "sources": ["librivox"], "recording": {"room": 1}}\n')
    assert columns(path, "uri", "tracks") == [(f"{tmp_path}/a.wav", 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"start": "0.5"},
        {"supervisions": [3]},
        {"recording": {**RECORDING, "sources": [{**RECORDING["sources"][0], "channels": 3}]}},
    ],
)
def test_odd_cuts_are_refused_by_their_line(tmp_path, change):
    path = tmp_path / "cuts.jsonl"
    path.write_text(lines([cut(id="good"), cut(**change)]))
    assert "line 2 is no cut or recording as lhotse writes it" in refusal(list_input, str(path))


def test_some_channels_of_several_are_refused(tmp_path):
    path = tmp_path / "cuts.jsonl"
    sources = [{"type": "file", "channels": [0, 1, 2], "source": "/data/rec.flac"}]
    path.write_text(lines([cut(channel=[0, 1], recording={**RECORDING, "sources": sources})]))
    assert "line 1 is of some channels of several" in refusal(list_input, str(path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"uri": ' + "[" * 100_000])
def test_json_that_is_nested_without_end_is_refused(tmp_path, text):
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    assert "nested too deep" in refusal(list_input, str(path))


def test_a_gzip_that_is_much_larger_unpacked_is_refused_before_that(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_MOST_BYTES", 1000)
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 100_000))
    assert "when unpacked" in refusal(list_input, str(path))


def test_kaldi_with_tabs_and_channels(tmp_path):
    path = write_kaldi(tmp_path, wav_scp="rec1\t/data/a b.wav\n", segments="u1\trec1\t0\t1.5\t1\n", utt2spk="u1\tann\n")
    assert columns(path, "id", "uri", "end", "channel", "speaker") == [("u1", "/data/a b.wav", 1.5, 1, "ann")]
    write_kaldi(tmp_path, segments="u1 rec1 0 1.5 A\n")
    assert "segments, line 1 has the channel 'A'" in refusal(list_input, path)


def test_a_folder_of_fairseq_may_have_any_name(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("/corpus, old\na.flac\t225360\n")
    assert ids_and_uris(list_input(str(path))) == [("a.flac", "/corpus, old/a.flac")]


def test_times_and_places_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "m.jsonl"
    for row, told in (
        ({"duration": 1e12}, "duration 1000000000000.0; it has to be 0 or more, and less than 10,000,000 seconds"),
        ({"end": 1e300}, "less than 10,000,000 seconds"),
        ({"byte_offset": -1, "byte_size": 5}, "byte_offset -1; it has to be 0 or more"),
    ):
        path.write_text(lines([{"uri": "a.wav", **row}]))
        assert told in refusal(list_input, str(path))
    path.write_text(lines([{"uri": "a.wav", "byte_offset": 9223372036854775000, "byte_size": 5}]))
    assert columns(path, "byte_offset") == [(9223372036854775000,)]
