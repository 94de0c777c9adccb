"""Links between a formula of the pages and the lines that compute it, both ways.

A line of the sources ends with, or is below a comment that ends with, "[formula NAME]"; a formula
of a page has the label NAME. Under the formula the lines are named, and each file with such lines
has a page of its own, on which they lead back.
"""

import html
import pathlib
import re

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import CythonLexer
from sphinx.errors import ExtensionError

ROOT = pathlib.Path(__file__).parent.parent.parent
MARK = re.compile(r"\[formula ([a-z0-9-]+)\]")


def find_marks(app):
    """{name: [(file, line)]}, and the files' texts."""
    marks, texts = {}, {}
    for pattern in app.config.formula_sources:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            found = [
                (name, line)
                for line, content in enumerate(text.splitlines(), start=1)
                for name in MARK.findall(content)
            ]
            if not found:
                continue
            file = path.relative_to(ROOT).as_posix()
            texts[file] = text
            for name, line in found:
                marks.setdefault(name, []).append((file, line))
    app.env.formula_marks, app.env.formula_texts = marks, texts


def page_of(file):
    return "code/" + file.replace("/", "-").replace(".", "-")


def add_links(app, doctree, docname):
    for node in list(doctree.findall(nodes.math_block)):
        found = app.env.formula_marks.get(node.get("label"), [])
        if not found:
            continue
        line = nodes.paragraph(classes=["computed-in"])
        line += nodes.Text("Computed in ")
        for i, (file, number) in enumerate(found):
            uri = app.builder.get_relative_uri(docname, page_of(file)) + f"#line-{number}"
            line += nodes.Text(", " if i else "")
            line += nodes.reference("", f"{file}, line {number}", refuri=uri, internal=True)
        node.parent.insert(node.parent.index(node) + 1, line)


def pages(app):
    """A page for each file with marks."""
    equations = app.env.get_domain("math").equations
    absent = set(app.env.formula_marks) - set(equations)
    if absent:
        raise ExtensionError(f"no page has the formulas {sorted(absent)} that the sources name")
    for file, text in app.env.formula_texts.items():
        page = page_of(file)
        lines = highlight(text, CythonLexer(), HtmlFormatter(nowrap=True)).splitlines()
        for number, line in enumerate(lines):
            lines[number] = f'<span id="line-{number + 1}">' + MARK.sub(
                lambda match, page=page: link_back(app, equations, page, match.group(1)), line
            )
            lines[number] += "</span>"
        body = '<div class="highlight source"><pre>' + "\n".join(lines) + "</pre></div>"
        yield page, {"title": html.escape(file), "body": f"<h1>{file}</h1>{body}"}, "page.html"


def link_back(app, equations, page, name):
    docname, _ = equations[name]
    uri = app.builder.get_relative_uri(page, docname) + "#" + nodes.make_id(f"equation-{name}")
    return f'[<a href="{uri}">formula {name}</a>]'


def setup(app):
    app.add_config_value("formula_sources", [], "env")
    app.connect("builder-inited", find_marks)
    app.connect("doctree-resolved", add_links)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
