"""The site: it is built without a warning, is complete, and asks no other host for anything."""

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

pytest.importorskip("mkdocs", reason="builds the site: pip install 'rlbench[docs]'")
ROOT = Path(__file__).parents[2]
PAGES = [
    "index.html", "contributing.html", "changes.html",
    *(str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in sorted((ROOT / "docs").rglob("*.md"))),
]  # fmt: skip
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--quiet", "--strict", "--config-file", "docs/site/mkdocs.yml", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return folder


class References(HTMLParser):
    """References of a page: to what it loads, and to where its links lead."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if (name := LOADED.get(tag)) and given.get(name) and given.get("rel") != "canonical":
            self.loaded.append(given[name])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


def references(site: Path) -> dict[Path, References]:
    return {path: References(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_in_the_navigation(site):
    links = {urlsplit(link).path for link in References((site / "index.html").read_text()).links}
    assert [page for page in PAGES if page not in links] == []


def test_no_page_loads_from_another_host(site):
    loaded = {url for page in references(site).values() for url in page.loaded}
    assert len(loaded) > 5 and [url for url in loaded if urlsplit(url).netloc] == []


def test_no_style_loads_from_another_host(site):
    styles = [*site.rglob("*.css")]
    assert styles
    for path in styles:
        assert not re.search(r"(url\(|@import)\s*[\"']?\s*(https?:)?//", path.read_text()), path.name


def test_links_between_pages_lead_somewhere(site):
    for path, page in references(site).items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if not parts.scheme and parts.path:
                assert (path.parent / unquote(parts.path)).exists(), f"{path.name}: {link}"


def test_a_link_to_the_source_leads_to_a_page_of_it(site):
    page = References((site / "algorithm.html").read_text())
    assert "source/rlbench/types.py.html" in page.links and "source/examples/plugin/index.html" in page.links
    assert "The vocabulary: every public type" in (site / "source/rlbench/types.py.html").read_text()


def test_the_reference_says_what_docstrings_and_comments_say(site):
    text = (site / "api/types.html").read_text()
    assert "One batch of finished episodes, as arrays." in text, "a docstring"
    assert "True where the policy chose the token" in text, "the comment of a field"
    assert "group_zscore" in (site / "api/learning.html").read_text()


def test_it_is_read_and_searched_from_disk(site, browser):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.keyboard.type("survivorship")
    page.wait_for_selector(".md-search-result__link", timeout=30_000)
    found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any("glossary.html" in link for link in found)
    assert [url for url in asked if not url.startswith(("file:", "about:", "data:"))] == []
    page.close()


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["authors"] == [{"name": "the rlbench developers"}]
