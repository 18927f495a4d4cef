"""Training data: the order of crops, what is read of a recording, what replaces those that cannot be read."""

import tarfile

import numpy as np
import pytest
import soundfile
import torch
from forks import FORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from training.ramps import list_into, list_source, make_folder, open_train, write_ramp

from sdhubert_ray import storage
from sdhubert_ray.corpus import shards
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.speech import SAMPLE_RATE
from sdhubert_ray.training.data import (
    CropReader,
    Draw,
    Share,
    TrainingOrder,
    permutation_of,
    read_crop,
    torch_loader,
    validation_order,
)
from sdhubert_ray.training.perturbations import VIEWS, Perturbing

CROP = 8_000  # samples: half a second


@pytest.fixture
def recordings(tmp_path):
    _, out = list_source(make_folder(tmp_path / "speech", 7))
    return open_train(out, tmp_path)


# --- the order ---------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation_of_seed_and_epoch():
    orders = {(seed, epoch): permutation_of(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[0, 1] == permutation_of(50, 0, 1).tolist()


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 40),
    world=st.integers(1, 4),
    batch=st.integers(1, 5),
    crops=st.integers(4, 24),
    steps=st.integers(1, 12),
    skipped=st.integers(0, 6),
    seed=st.integers(0, 5),
)
def test_a_step_has_the_same_crops_whatever_the_workers(count, world, batch, crops, steps, skipped, seed):
    """Laid side by side, round after round, the micro-batches of all workers are the order of one worker."""
    oracle = [
        Draw(number // count, int(permutation_of(count, seed, number // count)[number % count]))
        for number in range(crops * (skipped + steps))
    ]
    shares = [Share(rank, world, batch) for rank in range(world)]
    orders = [list(TrainingOrder(count, seed, share, crops, skipped * crops, steps)) for share in shares]
    rounds = shares[0].count_micro_batches(crops)
    assert (rounds - 1) * world * batch < crops
    assert all(len(order) == rounds * steps for order in orders)
    sizes = {len(micro_batch) for order in orders for micro_batch in order}
    assert 1 <= min(sizes) <= max(sizes) <= max(batch, 2)
    assert max(sizes) <= batch or crops % world
    assert max(sizes) - min(sizes) <= 1
    together = [draw for batches in zip(*orders, strict=True) for micro_batch in batches for draw in micro_batch]
    assert together == oracle[skipped * crops :]


def test_more_workers_than_crops_are_refused():
    with pytest.raises(UserError, match="a step has 3 crops, too few for 4 workers"):
        TrainingOrder(10, 0, Share(0, 4, 2), 3, 0, 1)


@given(
    count=st.integers(0, 40),
    world=st.integers(1, 5),
    size=st.integers(1, 9),
    limit=st.one_of(st.integers(1, 9), st.floats(0.01, 1.0)),
)
def test_validation_has_the_same_batches_whatever_the_workers(count, world, size, limit):
    """Two crops side by side of each recording; no worker is without a batch, as the others would wait for it."""
    orders = [validation_order(count, Share(rank, world, 7), size, limit) for rank in range(world)]
    alone = validation_order(count, Share(0, 1, 7), size, limit)
    nothing = [[Draw(1 << 32, 0)]]
    assert all(orders) == (count > 0)
    dealt = [batch for order in orders if order != nothing for batch in order]
    assert sorted(dealt) == sorted(alone)
    whole = -(-count // size)
    assert len(alone) == min(whole, limit if isinstance(limit, int) else max(1, round(limit * whole)))
    numbers = [draw.recording for batch in alone for draw in batch]
    assert numbers == [number for number in range(len(numbers) // 2) for _ in (0, 1)]
    assert all([draw.crop for draw in batch] == [0, 1] * (len(batch) // 2) for batch in alone)
    assert all(len(batch) == 2 * size for batch in alone[:-1])


# --- the crops ---------------------------------------------------------------------------------------------------


def test_a_crop_is_the_right_part_z_scored_over_itself(recordings):
    recording = recordings[3]
    whole, _ = soundfile.read(recording.uri, dtype="float32")
    for place in (0.0, 0.37, 0.999999):
        crop = read_crop(recording, CROP, place).samples
        first = round(place * (len(whole) - CROP))
        expected = whole[first : first + CROP].astype(np.float64)
        expected = (expected - expected.mean()) / expected.std()
        assert crop.dtype == np.float32
        assert len(crop) == CROP
        np.testing.assert_allclose(crop, expected, atol=2e-3)


def test_a_shorter_recording_is_taken_whole(recordings):
    crop = read_crop(recordings[0], 10 * SAMPLE_RATE, 0.7).samples
    assert len(crop) == 2 * SAMPLE_RATE
    assert abs(float(crop.mean())) < 1e-5
    assert abs(float(crop.std()) - 1) < 1e-5


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_give_full_crops(tmp_path, rate):
    write_ramp(tmp_path / "speech" / "a.flac", 3.0, rate)
    _, out = list_source(tmp_path / "speech")
    recording = open_train(out, tmp_path)[0]
    assert {len(read_crop(recording, CROP, place).samples) for place in np.linspace(0, 0.9999, 25)} == {CROP}


def test_only_a_part_of_a_long_remote_file_is_fetched(tmp_path, monkeypatch):
    from sdhubert_ray.storage import remote

    path = tmp_path / "long.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * 60 * SAMPLE_RATE).astype(np.float32)
    soundfile.write(path, noise, SAMPLE_RATE, subtype="PCM_16")
    storage.put("memory://training/long.wav", path.read_bytes())
    fetched = []
    whole = remote.fetch
    monkeypatch.setattr(
        remote, "fetch", lambda uri, start, stop: fetched.append(stop - start) or whole(uri, start, stop)
    )
    list_into(tmp_path / "index", source="memory://training/long.wav", val_share=0.0)
    crop = read_crop(open_train(tmp_path / "index", tmp_path)[0], 80_160, 0.5).samples
    assert len(crop) == 80_160
    assert 0 < sum(fetched) < path.stat().st_size / 3


def test_a_part_of_a_file_stays_within_it(tmp_path):
    write_ramp(tmp_path / "a.wav", 10.0)
    manifest = tmp_path / "list.csv"
    manifest.write_text("id,uri,start,end,duration\npart,a.wav,4.0,5.0,10.0\n")
    _, out = list_source(manifest)
    recording = open_train(out, tmp_path)[0]
    whole, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    for place in (0.0, 0.99999):
        first = round((4 + place * 0.5) * SAMPLE_RATE)
        expected = whole[first : first + CROP]
        np.testing.assert_allclose(
            read_crop(recording, CROP, place).samples, (expected - expected.mean()) / expected.std(), atol=5e-3
        )


def test_members_of_a_tar_are_read_like_files(tmp_path):
    make_folder(tmp_path / "speech", 3)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted((tmp_path / "speech").iterdir()):
            tar.add(path, path.name)
    _, files = list_source(tmp_path / "speech")
    from_files = open_train(files, tmp_path)
    crops = [read_crop(from_files[k], CROP, 0.3).samples for k in range(3)]
    _, packed = list_source(tmp_path / "all.tar")
    from_tar = open_train(packed, tmp_path)
    for k in range(3):
        np.testing.assert_array_equal(read_crop(from_tar[k], CROP, 0.3).samples, crops[k])


def test_what_cannot_be_used_is_told(tmp_path):
    folder = tmp_path / "speech"
    write_ramp(folder / "short.wav", 0.05)
    soundfile.write(folder / "silent.wav", np.zeros(20_000, np.float32), SAMPLE_RATE)
    (folder / "text.wav").write_text("no audio")
    _, out = list_source(folder)
    recordings = open_train(out, tmp_path)
    reasons = {}
    for k in range(3):
        with pytest.raises(AudioError) as caught:
            read_crop(recordings[k], CROP, 0.5)
        reasons[recordings[k].id] = str(caught.value)
    assert "too short" in reasons["short.wav"]
    assert "silent" in reasons["silent.wav"]
    assert "not audio" in reasons["text.wav"]


# --- batches -----------------------------------------------------------------------------------------------------


def assert_same(one, other):
    for key in ("samples", "num_samples", "seeds", "index"):
        assert torch.equal(one[key], other[key]), key
    for key in ("skipped", "audio_samples"):
        assert one[key] == other[key], key
    for view in VIEWS:
        for part, same in zip(one.get(view, ()), other.get(view, ()), strict=True):
            assert torch.equal(part, same), view


def test_batches_hold_valid_samples_then_zeros(recordings):
    batch = CropReader(recordings, 40_000, 0).read_batch([Draw(0, 0), Draw(0, 6)])
    assert batch["samples"].shape == (2, 40_000)
    assert batch["num_samples"].tolist() == [32_000, 40_000]
    assert not batch["samples"][0, 32_000:].any()
    assert batch["index"].tolist() == [0, 6]
    assert batch["audio_samples"] == 72_000
    assert not {"student", "teacher"} & set(batch)
    assert batch["samples"].dtype == torch.float32
    assert batch["seeds"].dtype == batch["num_samples"].dtype == torch.int64


def test_crops_hang_on_seed_epoch_and_recording_only(recordings):
    reader = CropReader(recordings, CROP, 0)
    first = reader.read_batch([Draw(0, 2), Draw(0, 5)])
    again = CropReader(recordings, CROP, 0).read_batch([Draw(0, 5), Draw(0, 2)])
    assert torch.equal(first["samples"].flip(0), again["samples"])
    assert torch.equal(first["seeds"].flip(0), again["seeds"])
    others = [reader[Draw(1, 2)], reader[Draw(0, 2, 1)], CropReader(recordings, CROP, 1)[Draw(0, 2)]]
    assert len({crop.seed for crop in (reader[Draw(0, 2)], *others)}) == 4
    assert not any(np.array_equal(crop.samples, first["samples"][0].numpy()) for crop in others)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=FORKS)])
def test_loader_gives_the_same_batches_whatever_its_workers(recordings, num_workers):
    reader = CropReader(recordings, CROP, 3, Perturbing(((400, 320),)))
    order = TrainingOrder(len(recordings), 3, Share(0, 1, 3), 3, 0, 5)
    state = torch.get_rng_state()
    loaded = list(torch_loader(reader, order, num_workers, 2, False))
    assert torch.equal(torch.get_rng_state(), state)  # the model's dropout goes on undisturbed
    expected = [reader.read_batch(draws) for draws in order]
    assert len(loaded) == len(expected) == 5
    assert expected[0]["student"].weight.any() or expected[0]["student"].masked.any()
    assert expected[0]["teacher"].lower.shape == (3, 24)
    for one, other in zip(loaded, expected, strict=True):
        assert_same(one, other)
    resumed = list(torch_loader(reader, TrainingOrder(len(recordings), 3, Share(0, 1, 3), 3, 9, 2), 0, 2, False))
    for one, other in zip(resumed, expected[3:], strict=True):
        assert_same(one, other)


def test_bad_recordings_give_way_to_the_same_others_and_are_counted(tmp_path):
    folder = make_folder(tmp_path / "speech", 6)
    (folder / "002.wav").write_bytes(b"damaged")
    (folder / "004.wav").write_bytes((folder / "003.wav").read_bytes()[:20_000])
    _, out = list_source(folder)
    recordings = open_train(out, tmp_path)
    reader = CropReader(recordings, 32_000, 0)
    draws = [Draw(0, k) for k in range(6)]
    batch = reader.read_batch(draws)
    assert batch["skipped"] >= 2
    assert len(batch["index"]) == 6
    assert not {2, 4} & set(batch["index"].tolist())
    assert_same(batch, CropReader(recordings, 32_000, 0).read_batch(draws))


def test_where_nothing_can_be_read_a_crop_is_a_counted_silence(tmp_path, caplog):
    """The run ends by their share, on all workers at once; the first are named."""
    for number in range(3):
        path = tmp_path / "speech" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"damaged")
    _, out = list_source(tmp_path / "speech")
    crop = CropReader(open_train(out, tmp_path), CROP, 0)[Draw(0, 0)]
    assert crop.failures == 32
    assert not crop.samples.any()
    assert len(caplog.messages) == 5
    assert "0.wav cannot be trained with: " in caplog.messages[0]
    assert caplog.messages[-1].endswith("; others like it are only counted")


def test_a_store_that_is_away_is_no_bad_recording(tmp_path, monkeypatch):
    _, out = list_source(make_folder(tmp_path / "speech", 2, 0.3))
    reader = CropReader(open_train(out, tmp_path), CROP, 0)

    def away(*_, **__):
        raise storage.TransientError("memory://x: away")

    monkeypatch.setattr(shards, "open_audio", away)
    with pytest.raises(storage.TransientError):
        reader[Draw(0, 0)]


def test_waiting_is_measured(monkeypatch):
    """By a clock that goes on by 2 s for each batch, and by 5 s for what is done with it."""
    from sdhubert_ray.training import waiting

    clock = [0.0]

    def slow():
        for number in range(3):
            clock[0] += 2
            yield number

    monkeypatch.setattr(waiting.time, "perf_counter", lambda: clock[0])
    batches = waiting.Waiting(slow())
    for _ in batches:
        clock[0] += 5
    assert batches.take_seconds() == 6
    assert batches.take_seconds() == 0
