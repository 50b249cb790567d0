"""Titles of papers in quotation marks become links to the papers, on any page; ``papers.md`` has the addresses."""

import re
from pathlib import Path

from docutils import nodes

LISTED = re.compile(r"^- (?P<authors>.+?), \"(?:\[(?P<linked>[^\]]+)\]\((?P<url>\S+)\)|(?P<title>[^\"]+))\"", re.M)
CITED = re.compile(r'["“]([^"“”]{4,160}?),?["”]')


def setup(app):
    app.connect("doctree-read", link_titles)
    return {"parallel_read_safe": True}


def listed(text):
    """Title -> address of each paper on the page, or None if it has none.

    Examples
    --------
    >>> listed('- Kingma and Ba, "[Adam: a method](https://arxiv.org/abs/1412.6980)", 2015.')
    {'Adam: a method': 'https://arxiv.org/abs/1412.6980'}
    """
    return {match["linked"] or match["title"]: match["url"] for match in LISTED.finditer(text)}


def paper(papers, title):
    """The full title of a paper that is cited by its title or its beginning; None if there is none.

    Examples
    --------
    >>> paper({"Adam: a method": None}, "Adam"), paper({"Adam: a method": None}, "Ada")
    ('Adam: a method', None)
    """
    words = _words(title)
    return next((full for full in papers if words and _words(full)[: len(words)] == words), None)


def _words(title):
    return re.findall(r"\w+", title.lower())


def link_titles(app, doctree):
    """Turn a title in quotation marks into a link, except in code and in links."""
    if app.env.docname == "papers":
        return
    app.env.note_dependency("papers.md")
    papers = listed((Path(app.srcdir) / "papers.md").read_text())
    for text in list(doctree.findall(nodes.Text)):
        above = text.parent
        if isinstance(above, nodes.literal | nodes.literal_block | nodes.doctest_block | nodes.reference | nodes.raw):
            continue
        parts, end = [], 0
        for match in CITED.finditer(text):
            url = papers.get(paper(papers, match[1]))
            if url:
                link = nodes.reference("", match[1], refuri=url, internal=False)
                parts += [nodes.Text(text[end : match.start(1)]), link]
                end = match.end(1)
        if parts:
            above.replace(text, [*parts, nodes.Text(text[end:])])
