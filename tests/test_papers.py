"""Every paper that is cited is on the page of papers, by its title, and every paper there is cited."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
papers = pytest.importorskip("extensions.papers", exc_type=ImportError)

PAGE = ROOT / "docs" / "papers.md"
LISTED = papers.listed(PAGE.read_text())
YEAR = (
    r'"([^"]{4,160})",?[\s#]+(?:[\w.]+,?[\s#]+){0,3}\(?(?:19|20)\d\d\b'  # a title, perhaps where it appeared, and when
)
SOURCES = [
    *ROOT.glob("tinyres/**/*.py"),
    *(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts and path != PAGE),
    ROOT / "README.md",
]


def text(path):
    return re.sub(r"\s+(# )?", " ", path.read_text())


def cited():
    for path in SOURCES:
        for title in re.findall(YEAR, text(path)):
            yield path, title


def test_papers_that_are_cited_are_listed():
    found = list(cited())
    assert len(found) > 60
    assert [f"{path.name}: {title}" for path, title in found if papers.paper(LISTED, title) is None] == []


def test_papers_that_are_listed_are_cited():
    everything = " ".join(text(path) for path in SOURCES)
    by_title = {papers.paper(LISTED, title) for _, title in cited()}
    for line in re.findall(r"^- .*", PAGE.read_text(), re.M):
        author, year = re.match(r"- ([^ ,]+)", line)[1], re.findall(r"\d{4}", line)[-1]
        by_name = re.search(rf"\b{author}\b[^.]{{0,60}}\b{year}\b", everything)
        (title,) = papers.listed(line)
        assert title in by_title or by_name, line


def test_the_page_is_in_order_and_its_links_name_papers():
    lines = re.findall(r"^- .*", PAGE.read_text(), re.M)
    assert len(lines) == len(LISTED)
    authors = [re.match(r"- ([^ ,]+)", line)[1].lower() for line in lines]
    assert authors == sorted(authors)
    urls = [url for url in LISTED.values() if url]
    assert len(set(urls)) == len(urls) > 50
    known = r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}$|doi\.org/10\.\d{4}/|proceedings\.mlr\.press/|jmlr\.org/|inria\.hal\.|www\.cs\.)"
    assert [url for url in urls if not re.match(known, url)] == []


def test_a_paper_is_known_by_the_beginning_of_its_title_and_no_two_begin_alike():
    assert papers.paper(LISTED, "Adam").startswith("Adam: a method")
    assert papers.paper(LISTED, "Accurate, Large Minibatch SGD").startswith("Accurate, large")
    assert papers.paper(LISTED, "Batch norm") is None
    assert papers.paper(LISTED, "") is None
    for _, title in cited():
        assert len({LISTED[full] for full in LISTED if papers.paper([full], title)}) == 1, title
