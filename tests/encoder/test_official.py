"""What a checkpoint says beside its weights is read without torch, and is what torch reads."""

import io
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN, ROOT

from sdhubert_ray.encoder.checkpoint import unpickle
from sdhubert_ray.encoder.official import parse_config, peek

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
    assert found == {"config": values, "state_dict": dict.fromkeys(tensors)}


@pytest.mark.parametrize("path", [GOLDEN / "checkpoint/tiny.pt", ROOT / "sdhubert_ray/assets/bundled.pt"])
def test_real_files_are_peeked_into(path):
    data = path.read_bytes()
    content = peek(data)
    assert content is not None
    assert parse_config("a", content) == parse_config("a", unpickle("a", data))
