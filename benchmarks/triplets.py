"""Triplets for spoken-sentence ABX: said by espeak-ng, and of what all speakers of TIMIT say."""

import itertools
import random
import subprocess
from pathlib import Path

import soundfile

# Said by espeak-ng: one of each pair of words stands in X and P, the other in N.
TEMPLATES = (
    "the {} was seen by an old {}",
    "my brother bought a {} and a {}",
    "there is no {} without a {}",
    "a {} can be as good as any {}",
    "she told us about the {} of the {}",
)
WORDS = (
    ("river", "table"), ("window", "mountain"), ("doctor", "teacher"), ("summer", "winter"), ("garden", "kitchen"),
    ("paper", "butter"), ("market", "station"), ("dog", "horse"), ("bread", "stone"), ("answer", "question"),
)  # fmt: skip
Clip = dict[str, object]
VOICES = ("en-us+m1", "en-us+f2", "en-us+m7", "en-gb+f4", "en-gb+m3", "en-us+f5")


def say_triplets(folder: Path) -> dict[str, dict[str, Clip]]:
    """X and P are a sentence by two voices of espeak-ng, N by X's voice is that sentence with one word replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    triplets = {}
    for number in range(150):
        words = draw.sample(WORDS, 2)
        template, (one, other) = draw.choice(TEMPLATES), draw.sample(VOICES, 2)
        first, second = words[0][0], draw.choice(words[1])
        said = template.format(first, second)
        changed = template.format(words[0][1], second)
        clips = [say(folder, said, one), say(folder, said, other), say(folder, changed, one)]
        triplets[f"{number:03d}"] = dict(zip("XPN", clips, strict=True))
    return triplets


def say(folder: Path, text: str, voice: str) -> Clip:
    path = folder / f"{voice}_{text.replace(' ', '_')}.wav"
    if not path.exists():
        subprocess.run(["espeak-ng", "-v", voice, "-w", str(path), text], check=True)
    return {"file_name": path.name, "segment": [0.0, soundfile.info(path).duration], "text": text}


def timit_triplets(folder: Path, negative_is_of: str) -> dict[str, dict[str, Clip]]:
    """Of two sentences that every speaker says: X and P are the same by two speakers, N the other by one of them."""
    triplets = {}
    for one, other in itertools.permutations(sorted(path.name for path in folder.iterdir()), 2):
        for sentence, opposite in (("sa1", "sa2"), ("sa2", "sa1")):
            speaker = one if negative_is_of == "X" else other
            names = f"{one}/{sentence}.wav", f"{other}/{sentence}.wav", f"{speaker}/{opposite}.wav"
            clips: list[Clip] = [
                {"file_name": name, "segment": [0.0, soundfile.info(folder / name).duration]} for name in names
            ]
            triplets[f"{one}_{other}_{sentence}"] = dict(zip("XPN", clips, strict=True))
    return triplets
