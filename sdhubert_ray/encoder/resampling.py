"""Samples at the rate of their file to what the encoder reads, on its device, by torchaudio."""

import importlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sdhubert_ray.errors import UserError, first_line
from sdhubert_ray.speech.audio import (
    LEFT_RATES,
    NONE,
    POPULATION,
    SAMPLE_RATE,
    SILENT_STD,
    TORCHAUDIO,
    correction_of,
    count_resampled,
)
from sdhubert_ray.speech.decoders import Samples
from sdhubert_ray.threads import torch_threads

# The filter of soxr's "HQ" in the words of torchaudio, fitted to its impulse responses at `LEFT_RATES`: flat up to 0.91
# of half of the lower rate, and 120 dB down from that half on.
_ZEROS = 94
_ROLLOFF = 0.956872
_BETA = 13.36
# Parts of a fixed length: one shape a rate, so that a GPU plans it once, and memory that does not hang on the piece.
_PART_SECONDS = 2
# Around each part lies a fifth of a second, more than the filter sees at any of the rates.
_MARGIN = 5


def check_resampler(resampler: str) -> None:
    """Raise UserError where what resamples on the device of the encoder is not installed, or does not load.

    To be asked before transformers is imported, which does not load then either.
    """
    if resampler != TORCHAUDIO:
        return
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        raise UserError(
            f"audio.resampler is torchaudio, but there is no module {error.name} here; install sdhubert_ray[gpu], or "
            "take audio.resampler=soxr"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"audio.resampler is torchaudio, which does not load beside torch {torch.__version__} "
            f"({first_line(error)}); install a torch of the same build, or uninstall it and take audio.resampler=soxr"
        ) from error


def resample_on(
    device: str, pieces: Sequence[tuple[Samples, int]], variance_floor: float, normalisation: str = POPULATION
) -> list[Samples | None]:
    """Resample pieces to 16 kHz and normalise them, as `audio.normalise` does.

    What comes of a piece does not depend on the others, nor, on a CPU, on how many threads torch has.

    Args:
        device: of the encoder.
        pieces: (n,) float32 each, and its rate, Hz.
        variance_floor: added to the variance under the root of the z-score.
        normalisation: one of `audio.NORMALISATIONS`.

    Returns:
        of each piece (round(n * 16000 / rate),) float32, or None where it is constant (`audio.is_silent`).

    Raises:
        torch.OutOfMemoryError: the GPU cannot hold them.
    """
    from sdhubert_ray.encoder.blending import HostCopies  # only here: it imports transformers, which takes seconds

    place = torch.device(device)
    copies = HostCopies(place)

    def settle(piece: tuple[Samples, int]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            resampled = resample_tensor(_send(piece[0], place), piece[1])
            variance, mean = torch.var_mean(resampled.double(), correction=0)
            if normalisation == NONE:
                return copies.start(resampled), copies.start(variance)
            corrected = variance * (len(resampled) / (len(resampled) - correction_of(normalisation)))
            normed = (resampled - mean.float()) / (corrected + variance_floor).sqrt().float()
            return copies.start(normed), copies.start(variance)

    if place.type == "cpu":
        with torch_threads(max(1, min(torch.get_num_threads(), len(pieces)))) as pool:
            settled = list(pool.map(settle, pieces))
    else:
        settled = [settle(piece) for piece in pieces]
    copies.wait()
    return [None if math.sqrt(variance.item()) < SILENT_STD else normed.numpy() for normed, variance in settled]


def resample_tensor(signal: Tensor, rate: int) -> Tensor:
    """Resample (n,) float32 at `rate` Hz to (round(n * 16000 / rate),) of 16 kHz; beyond its ends are zeros.

    For one of `LEFT_RATES`.
    """
    divisor = math.gcd(rate, SAMPLE_RATE)  # periods in a second; a whole number of samples at either rate
    before, after = rate // divisor, SAMPLE_RATE // divisor
    length, margin = _PART_SECONDS * divisor, divisor // _MARGIN
    resample = _resampler(rate, str(signal.device))
    missing = -len(signal) % (length * before)
    padded = F.pad(signal, (margin * before, missing + margin * before))
    parts = padded.unfold(0, (length + 2 * margin) * before, length * before)
    resampled = [resample(part)[margin * after : (margin + length) * after] for part in parts]
    return torch.cat(resampled)[: count_resampled(len(signal), rate)]


@lru_cache(len(LEFT_RATES))
def _resampler(rate: int, device: str) -> Callable[[Tensor], Tensor]:
    from torchaudio.transforms import Resample

    made: torch.nn.Module = Resample(rate, SAMPLE_RATE, "sinc_interp_kaiser", _ZEROS, _ROLLOFF, _BETA)
    return made.to(device)


def _send(samples: Samples, device: torch.device) -> Tensor:
    """A copy of (n,) samples on a device, which is not waited for."""
    host = torch.empty(len(samples), pin_memory=device.type == "cuda")
    host.numpy()[:] = samples
    return host.to(device, non_blocking=True)
