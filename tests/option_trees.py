"""Walks through nested options, for tests that look at every one."""

import dataclasses

import pytest

from sdhubert_ray.errors import UserError


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


def refused(load, *overrides, **given):
    """The message with which options are refused, checked to be one line."""
    with pytest.raises(UserError) as caught:
        load(*overrides, **given)
    message = str(caught.value)
    assert "\n" not in message
    return message
