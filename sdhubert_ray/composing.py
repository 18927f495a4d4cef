"""Typed options out of a YAML file, key=value and flags; a typo is an error that names the near miss."""

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line

Options = TypeVar("Options")

# ${name:...} calls a function, whose name may itself be made of others; ${name} is another key.
_RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)

_schemas: dict[type[Any], DictConfig] = {}


def read_parts(path: str | None, overrides: Sequence[str], flags: Mapping[str, object]) -> list[DictConfig]:
    """What the user has given, the later winning.

    Args:
        path: a YAML file, or None.
        overrides: `section.option=value` each.
        flags: dotted key -> value, from flags that were given.

    Raises:
        UserError: a file or an override that cannot be read.
    """
    given = [_read_yaml(path)] if path else []
    given += [_read_override(text) for text in overrides]
    given += [from_dotted(key, value) for key, value in flags.items()]
    for part in given:
        _refuse_environment(OmegaConf.to_container(part, resolve=False))
    return given


def _refuse_environment(config: Any, prefix: str = "") -> None:  # noqa: ANN401 - whatever YAML holds
    """Refuse values that would be looked up elsewhere: what is read so stands in a run's record for all to see."""
    if isinstance(config, dict):
        for key, value in config.items():
            _refuse_environment(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(config, list):
        for value in config:
            _refuse_environment(value, prefix)
    elif isinstance(config, str) and (found := _RESOLVER.search(config)):
        raise UserError(
            f"config key {prefix}: {found[0]}... would be read from outside the configuration, which a run writes "
            "down; give the value itself, or leave secrets where the store's own library looks for them"
        )


def configs_folder() -> Path:
    """configs/: inside the installed package, or beside it in the repository."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def merge(kind: type[Options], parts: Sequence[Mapping[str, object] | DictConfig]) -> DictConfig:
    """Lay parts over the defaults of an options dataclass, the later winning.

    Raises:
        UserError: an unknown key (naming the near one), or a value of the wrong type.
    """
    with _as_user_errors(kind):
        schema = _schema(kind)
        configs = [part if isinstance(part, DictConfig) else OmegaConf.create(dict(part)) for part in parts]
        for config in configs:
            _check_sections(schema, config, "")
        merged = OmegaConf.merge(schema, *configs)
    if not isinstance(merged, DictConfig):
        raise TypeError(f"configuration became a {type(merged).__name__}")
    return merged


def compose(kind: type[Options], parts: Sequence[Mapping[str, object] | DictConfig]) -> Options:
    """The options that `merge` makes, as an object; its own checks are told as they are.

    Raises:
        UserError: as `merge`, a value out of range, or one that has to be given.
    """
    merged = merge(kind, parts)
    given = [given_values(part) for part in parts if isinstance(part, DictConfig)]
    # What a file leaves to its reader, which merging takes for nothing.
    left = {key for part in given for key, value in part.items() if value == MISSING}
    for key in sorted(left - {key for part in given for key, value in part.items() if value != MISSING}):
        raise UserError(f"config key {key} has to be given; add {key}=VALUE")
    with _as_user_errors(kind):
        options = OmegaConf.to_object(merged)
    if not isinstance(options, kind):
        raise TypeError(f"configuration became a {type(options).__name__}")
    return options


def from_dotted(key: str, value: object) -> DictConfig:
    """One option by its dotted key, as a part for `merge`."""
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value)
    return config


def given_values(part: DictConfig) -> dict[str, object]:
    """What a part says by itself, by dotted key: `${...}` may name what only another part has, and stays as it is."""
    return dict(_leaves(OmegaConf.to_container(part), ""))


def _leaves(values: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, values


@contextlib.contextmanager
def _as_user_errors(kind: type[Options]) -> Iterator[None]:
    try:
        yield
    except ConfigKeyError as error:
        raise UserError(_unknown_key(str(error.full_key), kind)) from error
    except OmegaConfBaseException as error:
        reason = first_line(error)
        raise UserError(f"config key {error.full_key or '?'}: {reason}") from error
    except ValueError as error:  # a section's own check, which names the key
        raise UserError(str(error)) from error


def _check_sections(schema: DictConfig, given: DictConfig, prefix: str) -> None:
    for section in map(str, schema):
        if OmegaConf.is_dict(schema[section]) and section in given:
            if not OmegaConf.is_dict(given[section]):
                raise UserError(f"config key {prefix}{section} is a section, it cannot be {given[section]!r}")
            _check_sections(schema[section], given[section], f"{prefix}{section}.")


def _schema(kind: type[Any]) -> DictConfig:
    """What parts are merged into a copy of; it is made once, as that takes longer than all merging."""
    if kind not in _schemas:
        schema = OmegaConf.structured(kind)
        _unlock(schema)
        _schemas[kind] = schema
    return _schemas[kind]


def _unlock(node: DictConfig) -> None:
    """Frozen dataclasses make read-only nodes, on every level; here they are only a schema to merge into."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        if OmegaConf.is_dict(node[key]):
            _unlock(node[key])


def _read_yaml(path: str) -> DictConfig:
    try:
        loaded = OmegaConf.create(storage.read_bytes(path).decode())
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist") from error
    except (OSError, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"config file {path} cannot be read ({first_line(error)})") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"config file {path} is no mapping of keys to values")
    return loaded


def _read_override(text: str) -> DictConfig:
    key, separator, _ = text.partition("=")
    if not separator or not key:
        quoted = "; it is a file: a glob has to be quoted" if storage.exists(text) else ""
        raise UserError(f"{text!r} is no override; write key=value, for example syllables.syl_dur=0.2{quoted}")
    try:
        return DictConfig(OmegaConf.from_dotlist([text]))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"override {text!r} cannot be read ({first_line(error)})") from error


def _unknown_key(key: str, kind: type[Any]) -> str:
    known = _dotted_keys(kind())
    if key in known:
        section, _, option = key.partition(".")
        return f"config key {key!r} stands in a file as one word; write {option} in the section {section}:"
    near = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    sections = dict.fromkeys(name.rpartition(".")[0] for name in known)
    near = near or difflib.get_close_matches(key, [*sections, *known], 1, 0.5)
    short = {name.rpartition(".")[2]: name for name in known}
    near = near or [short[name] for name in difflib.get_close_matches(key.rpartition(".")[2], short, 1)]
    return f"unknown config key {key!r}" + (
        f"; did you mean {near[0]!r}?" if near else f"; keys are {', '.join(known)}"
    )


def _dotted_keys(options: Any, prefix: str = "") -> list[str]:  # noqa: ANN401 - any options dataclass
    keys: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        inner = _dotted_keys(value, f"{prefix}{option.name}.") if is_dataclass(value) else [f"{prefix}{option.name}"]
        keys += inner
    return keys
