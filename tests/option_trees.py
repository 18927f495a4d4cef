"""Walks through nested options, for tests that look at every one."""

import dataclasses


def leaves(options, prefix=""):
    """Dotted key and value of every option of nested dataclasses."""
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{option.name}.")
        else:
            yield f"{prefix}{option.name}", value


def flatten(values, prefix=""):
    """Dotted keys of nested mappings."""
    for key, value in values.items():
        yield from flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
