"""The pages of the site that are no files of docs/: the README and its neighbours, and the sources that pages link to.

A link is written as it has to be in the repository. Where it leads out of docs/, the site has a page of what is there:
a Markdown file as it is, a folder by its README.md, any other file as code. So no link needs a network.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NAMED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?\)")
ORIGINS: dict[str, str] = {}  # path in the site: path in the repository, of pages whose links are rewritten


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages, until every link has one."""
    ORIGINS.clear()
    ORIGINS.update((file.src_uri, f"docs/{file.src_uri}") for file in files.documentation_pages())
    waiting = [*NAMED]
    waiting += [target for origin in ORIGINS.values() for target in outside(origin)]
    for origin in waiting:
        place = place_of(origin)
        if place not in files.src_uris:
            text = (ROOT / origin).read_text()
            if origin.endswith(".md"):
                ORIGINS[place] = origin
                waiting += outside(origin)
            else:
                text = f"# {origin}\n\n````{Path(origin).suffix[1:]}\n{text}\n````\n"
            nav = InclusionLevel.INCLUDED if origin in NAMED else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, place, content=text, inclusion=nav))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page, with its links as they are in the site."""
    place = page.file.src_uri
    if place not in ORIGINS:
        return markdown

    def rewritten(match: re.Match[str]) -> str:
        target = resolved(ORIGINS[place], match[2])
        if target is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(place_of(target), posixpath.dirname(place) or '.')}{match[3] or ''})"

    return LINK.sub(rewritten, markdown)


def outside(origin: str) -> Iterator[str]:
    """The files outside of docs/ that a file links to."""
    for match in LINK.finditer((ROOT / origin).read_text()):
        target = resolved(origin, match[2])
        if target and not target.startswith("docs/"):
            yield target


def resolved(origin: str, link: str) -> str | None:
    """The file of the repository that a link of another leads to; None where there is none."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    if (ROOT / target).is_dir():
        target = f"{target}/README.md"
    return target if (ROOT / target).is_file() else None


def place_of(target: str) -> str:
    """The path in the site of a file of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return NAMED.get(target) or f"source/{target}{'' if target.endswith('.md') else '.md'}"
