"""Folders of files, and what is in them."""

from pathlib import Path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def write_tree(root, names):
    for name in names:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
