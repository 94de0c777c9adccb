"""Pictures in SVG within the page itself, so that they take on the colours of its theme."""

import pathlib

from docutils import nodes


def inline(app, doctree, docname):
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        source = pathlib.Path(app.srcdir, image["uri"])
        if source.suffix == ".svg" and source.is_file():
            image.replace_self(nodes.raw("", source.read_text(encoding="utf-8"), format="html"))


def setup(app):
    app.connect("doctree-resolved", inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
