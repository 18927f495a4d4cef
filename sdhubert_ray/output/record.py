"""Whose an output is: the options of what is written, the fingerprint, and the run record."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, require_choice

RUN_RECORD = "run.json"


@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Attributes:
        formats: `parquet` is always written; `files` and `textgrid` add text files per recording, `csv` one for all.
        frame_features: `float32` or `float16` keeps the features of all frames, `none` does not.
        segment_features: `auto` keeps them as they were computed; or `float32`, `float16`, `none`.
        compression: the Parquet codec.
        rows_per_file: commits are put together into files of the table of up to this many rows (and 256 MiB).
    """

    formats: tuple[str, ...] = ("parquet",)
    frame_features: str = "none"
    segment_features: str = "auto"
    compression: str = "zstd"
    rows_per_file: int = 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(self.formats))  # from YAML it comes as a list
        for name in self.formats:
            require_choice("output.formats", name, ("parquet", "files", "textgrid", "csv"))
        require_choice("output.frame_features", self.frame_features, ("none", "float16", "float32"))
        require_choice("output.segment_features", self.segment_features, ("auto", "none", "float16", "float32"))
        require_choice("output.compression", self.compression, ("zstd", "snappy", "lz4", "gzip", "none"))
        if "files" in self.formats and self.frame_features == "none":
            raise ValueError("output.formats has `files`, which needs output.frame_features float32 or float16")
        if "files" in self.formats and self.segment_features == "none":
            raise ValueError("output.formats has `files`, which needs output.segment_features other than none")
        if self.rows_per_file < 1:
            raise ValueError(f"output.rows_per_file is {self.rows_per_file}; a file needs 1 row or more")


def fingerprint(values: Mapping[str, object]) -> dict[str, str]:
    """What decides the results of a run, flat: dotted key -> JSON value."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": text for inner, text in fingerprint(value).items()})
        else:
            flat[key] = json.dumps(value)
    return flat


def read_run(output: str) -> dict[str, Any] | None:
    """The run record of an output, or None where there is none.

    Raises:
        UserError: it is damaged, or the folder holds something else.
    """
    uri = storage.join(output, RUN_RECORD)
    try:
        record = storage.read_json(uri)
        if record is None:
            return None
        if not isinstance(record["fingerprint"], dict) or not isinstance(record["runs"], int):
            raise KeyError("fingerprint")
    except storage.TransientError:
        raise
    except OSError as error:
        raise UserError(f"{uri} cannot be read ({error})") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"{uri} is no run record; choose another output") from error
    return record


def write_run(output: str, record: Mapping[str, object]) -> None:
    """Write the run record, whole. Raises UserError where the output cannot be written."""
    storage.put(storage.join(output, RUN_RECORD), json.dumps(record, indent=1).encode() + b"\n")


def refuse_other(output: str, before: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse an output whose fingerprint is another one.

    Raises:
        UserError: it is; the message names the keys.
    """
    differing = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
    if differing:
        listed = ", ".join(
            f"{key} ({before.get(key, 'unset')} there, {wanted.get(key, 'unset')} now)" for key in differing
        )
        way = "choose another output, or --overwrite it"
        if differing == ["quantizer.sha256"] and "quantizer.sha256" not in wanted:
            way = "it has units: give segment the --quantizer that they are of"
        raise UserError(f"output {output} was made with another configuration: {listed}; {way}")


def check_tokenized(output: str, record: Mapping[str, Any]) -> None:
    """Raise UserError where `sdhubert tokenize` has begun to write units into an output and not ended."""
    if "tokenizing" in record:
        name = record["tokenizing"]["name"]
        raise UserError(
            f"output {output} has units in a part of its rows only: a `sdhubert tokenize` was interrupted; run "
            f"`sdhubert tokenize {output} --quantizer {name}` first"
        )
