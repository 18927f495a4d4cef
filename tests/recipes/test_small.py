"""What the recipe of the bundled checkpoint trains on, and asks for: its parts against what they are told to do."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recipes.small import perturb
from recipes.small.crops import NO_SYLLABLE, NUM_PARTS, Crops, Utterance, at_frames, parts_of
from recipes.small.objective import Objective
from recipes.small.options import CropOptions, ObjectiveOptions, PerturbOptions, TrainOptions
from recipes.small.train import share_of_lr

RATE = 16_000
seeds = st.integers(0, 2**32 - 1)


def tone(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def loudest(samples):
    """Hz of the greatest bin of the spectrum."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * RATE / len(samples)


# -- waveforms


@settings(max_examples=20)
@given(st.floats(0.8, 1.25), st.floats(0.8, 1.3))
def test_pitch_and_tempo_are_changed_apart(pitch, tempo):
    found = perturb.change_voice(tone(440), pitch, tempo)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(RATE / tempo, rel=0.05)
    assert loudest(found[1000:-3000]) == pytest.approx(440 * pitch, rel=0.02)


def test_a_voice_that_is_not_changed_is_the_same():
    samples = tone(300)
    np.testing.assert_array_equal(perturb.change_voice(samples, 1.0, 1.0), samples)


@given(seeds, st.floats(-5, 60))
def test_noise_is_as_much_weaker_as_asked(seed, ratio):
    draw = np.random.default_rng(seed)
    speech = draw.standard_normal(4000).astype(np.float32)
    noise = perturb.draw_noise(4000, draw)
    assert noise.shape == (4000,)
    added = perturb.add_noise(speech, noise, ratio).astype(np.float64) - speech
    if np.abs(noise).max() > 1e-3:
        level = np.sqrt(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2))
        assert 20 * np.log10(level) == pytest.approx(ratio, abs=0.2)


def test_silence_stays_finite():
    silent = np.zeros(4000, np.float32)
    draw = np.random.default_rng(0)
    for _ in range(30):
        assert np.isfinite(perturb.perturb(silent, PerturbOptions(), draw)).all()


def test_a_telephone_keeps_its_band():
    draw = np.random.default_rng(0)
    kept, low, high = (
        np.std(perturb.through_channel(tone(hertz), True, 0.0, draw)) / np.std(tone(hertz))
        for hertz in (1000, 60, 7000)
    )
    assert kept == pytest.approx(1, abs=0.05)
    assert low < 0.1
    assert high < 0.02


def test_a_room_keeps_the_direct_sound_where_it_was():
    click = np.zeros(8000, np.float32)
    click[2000] = 1
    heard = perturb.in_room(click, 0.4, np.random.default_rng(0))
    assert len(heard) == 8000
    assert np.abs(heard[:2000]).max() < 1e-6
    assert np.argmax(np.abs(heard)) == 2000
    assert np.std(heard[2400:3200]) > 3 * np.std(heard[6400:7200])


@given(seeds, st.floats(0.01, 0.3))
def test_clipping_cuts_off_the_share_that_it_is_told(seed, share):
    samples = np.random.default_rng(seed).standard_normal(2000).astype(np.float32)
    clipped = perturb.clip(samples, share)
    assert np.mean(clipped != samples) == pytest.approx(share, abs=0.002)
    assert np.abs(clipped).max() <= np.quantile(np.abs(samples), 1 - share) + 1e-6


# -- crops


def test_the_parts_of_a_label():
    parts = parts_of("S-T-R-EH-NG-TH")
    assert parts.sum() == 6
    assert parts_of("AX").tolist() == parts_of("AH").tolist()
    assert parts_of("T-AY")[parts_of("AY-T") > 0].sum() == 1  # the vowel; a T of the onset is none of the coda
    assert parts.shape == (NUM_PARTS,)


@given(arrays.arrays(np.float64, st.integers(0, 8), elements=st.floats(0, 1.2), unique=True))
def test_frames_are_of_the_syllable_that_their_middle_lies_in(edges):
    edges = np.sort(edges)
    times = np.stack([edges[:-1], edges[1:]], axis=1) if len(edges) > 1 else np.zeros((0, 2))
    parts = np.eye(NUM_PARTS, dtype=np.float32)[: len(times)]
    syllable, of_frames = at_frames(times, parts, 50)
    for frame in range(50):
        middle = (frame + 0.5) / 50
        inside = [number for number, (start, end) in enumerate(times) if start < middle < end]
        near = np.abs(edges - middle).min(initial=1) < 1e-9
        if not near:
            assert syllable[frame] == (inside[0] if inside else NO_SYLLABLE)
            assert of_frames[frame].sum() == len(inside)


def utterances(seed, count=3):
    """Loud syllables of half a second with silence between."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        samples = np.zeros(4 * RATE)
        times = np.array([[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]])
        for start, end in times:
            samples[int(start * RATE) : int(end * RATE)] = draw.normal(0, 8000, int((end - start) * RATE))
        parts = np.stack([parts_of(label) for label in ("T-AY", "M-AA", "K-IH")])
        made.append(Utterance(np.clip(samples, -32768, 32767).astype(np.int16), times, parts))
    return made


PLAIN = PerturbOptions(
    channel_share=0.0, room_share=0.0, noise_share=0.0, clip_share=0.0, floor_ratio=(60.0, 60.0), tempo_share=1.0
)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(0, 1000))
def test_syllables_are_where_they_are_heard(seed, number):
    """Whatever the voice, tempo and place of a crop."""
    crops = Crops(
        utterances(seed), [], CropOptions(seconds=2.0, synthetic_share=0.5, empty_share=0.0, perturb=PLAIN), 0
    )
    samples, syllable, parts = crops[number]
    assert samples.shape == (32_000,)
    assert syllable.shape == (100,)
    loud = samples.reshape(100, 320).square().mean(dim=1) > 0.2
    speech = syllable != NO_SYLLABLE
    assert (loud != speech).float().mean() < 0.12  # edges, and what the change of tempo moves
    assert (parts.sum(dim=1) == 2).equal(speech)


@settings(max_examples=15, deadline=None)
@example(0, 66)
@given(seeds, st.integers(0, 1000))
def test_recordings_in_a_row_keep_to_their_places(seed, number):
    """Short ones, and the last of them cut: its first syllable does not reach into the pause before."""
    made = [Utterance(one.samples[: 2 * RATE], one.syllables[:2], one.parts[:2]) for one in utterances(seed)]
    options = CropOptions(seconds=6.0, synthetic_share=0.0, empty_share=0.0, perturb=PLAIN)
    samples, syllable, _ = Crops(made, [], options, 0)[number]
    loud = samples.reshape(300, 320).square().mean(dim=1) > 0.2
    speech = (syllable != NO_SYLLABLE).numpy()
    edges = np.flatnonzero(np.diff(speech.astype(int)))
    if loud[-4:].any() and not speech[-4:].any():  # a syllable is heard that begins just behind the end of the crop
        edges = np.append(edges, len(speech))
    for frame in np.flatnonzero(loud.numpy() != speech):
        assert np.abs(edges - frame).min(initial=300) <= 4  # what the change of tempo moves


def test_a_crop_depends_on_seed_and_number_alone():
    options = CropOptions(seconds=1.0)
    first, again, other = (Crops(utterances(0), utterances(1), options, seed) for seed in (0, 0, 1))
    several = [first[number] for number in (0, 1, 2, 3)]
    for number in (3, 1):
        for left, right in zip(again[number], several[number], strict=True):
            assert torch.equal(left, right)
    assert not torch.equal(other[0].samples, several[0].samples)


def test_crops_without_speech_have_no_syllables():
    crops = Crops(utterances(0), [], CropOptions(seconds=1.0, empty_share=1.0), 0)
    samples, syllable, parts = crops[0]
    assert (syllable == NO_SYLLABLE).all()
    assert not parts.any()
    assert samples.std() > 0.5


# -- the objective


def test_states_as_they_are_asked_for_cost_less():
    syllable = torch.tensor([[0, 0, 0, 1, 1, 1, NO_SYLLABLE, NO_SYLLABLE, 2, 2]])
    parts = torch.zeros(1, 10, NUM_PARTS)
    objective = Objective(16, ObjectiveOptions())
    wanted = torch.zeros(1, 10, 16)
    for frame, number in enumerate(syllable[0].tolist()):
        if number != NO_SYLLABLE:
            wanted[0, frame, number] = 4.0  # the norm is sqrt(D)
    mixed = wanted[:, torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    right, wrong = objective(wanted, syllable, parts), objective(mixed, syllable, parts)
    for name in ("pairs", "speech"):
        assert right[name] < 0.1 < wrong[name]
    weighted = right["pairs"] + right["speech"] + ObjectiveOptions().parts_weight * right["parts"]
    assert right["sum"].item() == pytest.approx(weighted.item())


def test_pairs_beyond_reach_do_not_count():
    """And both answers weigh the same, however many pairs there are of each."""
    objective = Objective(8, ObjectiveOptions(reach=1))
    states = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    syllable = torch.tensor([[0, 0, 0, 0, 1, NO_SYLLABLE]])
    loss = objective._pairs(states, syllable, syllable != NO_SYLLABLE)
    unit = torch.nn.functional.normalize(states[0], dim=1)
    logits = [(unit[at] @ unit[at + 1] - 0.4) * 8 for at in range(4)]
    softplus = torch.nn.functional.softplus
    expected = (sum(softplus(-one) for one in logits[:3]) / 3 + softplus(logits[3])) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert not states.grad[0, 5].any()


def test_batches_without_speech_have_a_loss():
    objective = Objective(8, ObjectiveOptions())
    syllable = torch.full((2, 5), NO_SYLLABLE)
    losses = objective(torch.randn(2, 5, 8), syllable, torch.zeros(2, 5, NUM_PARTS))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_learning_rate_rises_and_falls():
    options = TrainOptions(steps=100, warmup=10)
    shares = [share_of_lr(step, options) for step in range(1, 101)]
    assert np.argmax(shares) == 9
    assert shares[0] == pytest.approx(0.1, rel=0.01)
    assert shares[-1] == pytest.approx(0, abs=1e-12)
    assert all(left > right for left, right in itertools.pairwise(shares[9:]))


def test_workers_have_to_share_a_batch_evenly():
    with pytest.raises(ValueError, match=r"train\.workers is 3; it has to divide train\.batch_size, 8"):
        TrainOptions(workers=3)
