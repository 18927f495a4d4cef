"""Triplets of clips, as JSON has them."""

import json


def clip(name, start, end):
    return {"file_name": f"{name}.flac", "segment": [start, end], "text": "IT IS"}


def write(folder, triplets):
    path = folder / "triplets.json"
    path.write_text(triplets if isinstance(triplets, str) else json.dumps(triplets))
    return str(path)


GOOD = clip("a", 0, 1)
