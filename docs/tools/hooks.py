"""What mkdocs.yml adds to the pages of docs/ while it builds the site.

- `commands.md`, from the parser of the command line.
- Below the title of a page whose commands are run, that they are.
- Files of the repository that pages link to (`../configs/segment.yaml`): Markdown becomes a page, all else is copied.
- `llms.txt`: an index of the pages for language models, which find the Markdown of each beside it.
"""

import os
import re
from pathlib import Path, PurePosixPath

from blocks import FROM_NOTHING, read_blocks
from command_pages import write_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = "files"
"""Folder of the site for what lies outside of docs/."""

_RUN = """\
The commands here are run as they stand, in this order, by `make docs-check`; `speech/` holds
[the demo's two recordings](quickstart.md).
{ .run }"""
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_SCHEME = re.compile(r"[a-z]+:")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference of commands, and all that pages link to outside of docs/."""
    files.append(File.generated(config, "commands.md", content=write_page()))
    waiting = [PurePosixPath("docs", file.src_uri) for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        source = ROOT / page
        for target in _outside(page, source.read_text()) if source.exists() else ():
            if files.get_file_from_path(f"{OUTSIDE}/{target}") is None:
                files.append(File.generated(config, f"{OUTSIDE}/{target}", abs_src_path=str(ROOT / target)))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the repository has them, to where the site has the same; below the title, that commands are run."""
    del config, files
    source = Path(page.file.abs_src_path or "")
    if (
        source.parent.name == "docs"
        and source.name != FROM_NOTHING
        and any(block.is_run for block in read_blocks(source))
    ):
        markdown = markdown.replace("\n\n", f"\n\n{_RUN}\n\n", 1)
    return _LINK.sub(lambda link: _rewritten(page.file.src_uri, link["target"]) + (link["anchor"] or ""), markdown)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Write llms.txt, and the Markdown of each page, into the site."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for item in nav.items:
        pages = _pages(item)
        lines += [f"## {item.title or pages[0].title}", ""] if isinstance(item, Section) else []
        for page in pages:
            page.read_source(config)
            lines.append(f"- [{page.title}]({page.file.src_uri}): {_first_sentence(page.markdown or '')}")
        lines.append("")
    files.append(File.generated(config, "llms.txt", content="\n".join(lines)))
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Lay the Markdown of each page beside it."""
    for source in Path(config.docs_dir).glob("*.md"):
        (Path(config.site_dir) / source.name).write_bytes(source.read_bytes())
    (Path(config.site_dir) / "commands.md").write_text(write_page())


def _pages(item: object) -> list[Page]:
    if isinstance(item, Section):
        return [page for child in item.children for page in _pages(child)]
    return [item] if isinstance(item, Page) else []


def _first_sentence(markdown: str) -> str:
    """What a page says of itself, below its title: up to its first full stop, links without where they lead."""
    paragraph = next(part for part in markdown.split("\n\n") if part.strip() and not part.lstrip().startswith("#"))
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def _resolve(page: PurePosixPath, target: str) -> PurePosixPath | None:
    """The path in the repository that a link of a page in the repository leads to; None: it leads elsewhere."""
    if _SCHEME.match(target):
        return None
    return PurePosixPath(os.path.normpath(page.parent / target))


def _outside(page: PurePosixPath, markdown: str) -> list[PurePosixPath]:
    """What a page links to outside of docs/.

    Raises:
        PluginError: there is no such file.
    """
    found = [_resolve(page, link["target"]) for link in _LINK.finditer(_without_code(markdown))]
    outside = [target for target in found if target is not None and target.parts[0] != "docs"]
    for target in outside:
        if not (ROOT / target).is_file():
            raise PluginError(f"{page} links to {target}, which is no file of the repository")
    return outside


def _without_code(markdown: str) -> str:
    return re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", markdown, flags=re.DOTALL | re.MULTILINE)


def _rewritten(src_uri: str, target: str) -> str:
    """A link as the site has it, of a page of the site."""
    own = PurePosixPath(src_uri)
    inside = own.parts[0] != OUTSIDE
    home = PurePosixPath("docs") / own if inside else PurePosixPath(*own.parts[1:])
    found = _resolve(home, target)
    if found is None or (inside and found.parts[0] == "docs"):
        return target
    place = PurePosixPath(*found.parts[1:]) if found.parts[0] == "docs" else PurePosixPath(OUTSIDE) / found
    return os.path.relpath(place, own.parent)
