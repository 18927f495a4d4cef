"""What a checkpoint says beside its weights is read without torch, and is what torch reads."""

import io
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN, ROOT

from sdhubert_ray.encoder.checkpoint import unpickle
from sdhubert_ray.encoder.official import parse_config, peek
from sdhubert_ray.encoder.weights import read_config
from sdhubert_ray.errors import UserError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=12,
)
TENSORS = st.sampled_from(
    [
        torch.zeros(3),
        torch.zeros((2, 2), dtype=torch.bfloat16),
        torch.nn.Parameter(torch.ones(1)),
        torch.arange(6).reshape(2, 3).t(),
        torch.tensor(True),
    ]
)


@settings(deadline=None, max_examples=100)
@given(PLAIN, st.dictionaries(st.text(), TENSORS, max_size=4), st.booleans())
def test_plain_values_are_as_torch_reads_them(values, tensors, ordered):
    buffer = io.BytesIO()
    state = OrderedDict(tensors) if ordered else tensors
    torch.save({"config": values, "state_dict": state}, buffer)
    found = peek(buffer.getvalue())
    assert found["config"] == values
    assert {key: value.shape for key, value in found["state_dict"].items()} == {
        key: tuple(value.shape) for key, value in tensors.items()
    }


def packed(pickled, *others, compression=zipfile.ZIP_STORED):
    """An archive of torch with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in others:
            archive.writestr(name, data)
    return buffer.getvalue()


def test_odd_archives_are_left_to_torch():
    """Which reads another entry, makes no room for a memo that is not there, and says what it refuses."""
    plain = pickle.dumps({"config": 1}, 2)
    assert peek(packed(plain)) == {"config": 1}
    assert peek(packed(plain, ("archive/DATA.PKL", plain))) is None
    assert peek(packed(plain, compression=zipfile.ZIP_LZMA)) is None
    assert peek(packed(b"\x80\x02Nr" + (1 << 31).to_bytes(4, "little") + b".")) is None
    assert peek(packed(b"\x80\x02cos\nsystem\n.")) is None
    assert peek(packed(plain[:-3])) is None


def test_archives_without_checksums_are_read():
    before = torch.serialization.get_crc32_options()
    buffer = io.BytesIO()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"config": {"speech_upstream": "a"}, "state_dict": {"b": torch.ones(2)}}, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_config("a", buffer.getvalue()).speech_upstream == "a"
    assert unpickle("a", buffer.getvalue())["state_dict"]["b"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("upstream", [{"id2label": {0: "a", "b": 1}}, {"a": b"c"}, {"a": {1, 2}}])
def test_an_upstream_that_is_no_json_is_refused(upstream):
    content = {"config": {"speech_upstream": "a"}, "state_dict": {}, "upstream": upstream}
    with pytest.raises(UserError, match="has an 'upstream' that is no JSON"):
        parse_config("a", content)


@pytest.mark.parametrize("path", [GOLDEN / "checkpoint/tiny.pt", ROOT / "sdhubert_ray/assets/bundled.pt"])
def test_real_files_are_peeked_into(path):
    data = path.read_bytes()
    content = peek(data)
    assert content is not None
    assert parse_config("a", content) == parse_config("a", unpickle("a", data))
