"""The files that a host of repositories reads: how to cite, and the forms of issues."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
# Of GitHub's form schema.
TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
ATTRIBUTES = {"label", "description", "placeholder", "value", "render", "options", "multiple"}


def test_citation_is_of_this_version_and_names_the_paper() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # those that the format asks for
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert paper["url"].endswith("2310.10803")
    assert [author["family-names"] for author in paper["authors"]][::4] == ["Cho", "Anumanchipalli"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_of_issues_are_such(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert form.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "title", "labels", "body"}
    ids = [part["id"] for part in form["body"]]
    assert len({*ids}) == len(ids)
    for part in form["body"]:
        assert part["type"] in TYPES
        assert part.keys() <= {"type", "id", "attributes", "validations"}
        assert part["attributes"].keys() <= ATTRIBUTES
        assert part["attributes"]["label"]
