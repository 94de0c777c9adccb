"""Docstrings of plain text, as the package writes them, to the field lists that Sphinx knows.

A docstring has paragraphs, and sections that begin with one of _SECTIONS at the start of a line.
Names in backquotes are code, and nothing else is marked up.
"""

import importlib
import re

_SECTIONS = {
    "Arguments": "Arguments",
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Raises": "Raises",
    "Example": "Example",
    "Examples": "Example",
}
_SECTION = re.compile(rf"^({'|'.join(_SECTIONS)})(?: \([^)]*\))?:(?: (.*))?$")
# "name: text" and "a, b: text" at the start of a line, or after a sentence's end within one.
_NAMES = r"\*{0,2}[A-Za-z_]\w*(?:,\s+\*{0,2}[A-Za-z_]\w*)*"
_ENTRY = re.compile(rf"(?:^|(?<=[.;] ))({_NAMES}): ", re.MULTILINE)
_PUBLIC = re.compile(r"bcenet(?:\.\w+)+")
_SPECIAL = re.compile(r"([\\*_|])")


def escape(text):
    """Text as reStructuredText: what is in backquotes is code, and a link to what it names."""
    pieces = re.split(r"``([^`]+)``|`([^`]+)`", text)
    result = []
    for i in range(0, len(pieces), 3):
        result.append(_SPECIAL.sub(r"\\\1", pieces[i]))
        for code in pieces[i + 1 : i + 3]:
            if code is not None:
                result.append(f"\\ {as_code(code)}\\ ")
    return "".join(result)


def as_code(text):
    """A name of the package as a link to its place in the reference, anything else as it is."""
    return f":py:obj:`{text}`" if _PUBLIC.fullmatch(text) else f"``{text}``"


def indent(lines, by="   "):
    return [by + line if line else "" for line in lines]


def dedent(lines):
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[depth:] for line in lines]


def prose(lines):
    """Paragraphs, lists and doctests."""
    result = []
    for block in re.split(r"\n\s*\n", "\n".join(dedent(lines)).strip("\n")):
        rows = block.split("\n")
        if rows[0].lstrip().startswith(">>>"):
            result += ["", *dedent(rows), ""]
        elif any(row.lstrip().startswith("- ") for row in rows):
            result += bullets(rows)
        elif len(rows) > 1 and all(row.startswith("    ") for row in rows):
            result += ["", "::", "", *indent(rows), ""]
        else:
            result += ["", *(escape(row.strip()) for row in rows), ""]
    return result


def bullets(rows):
    result, items = [""], []
    for row in rows:
        if row.lstrip().startswith("- "):
            items.append([row.lstrip()[2:]])
        elif items:
            items[-1].append(row.strip())
        else:
            result.append(escape(row.strip()))
    result.append("")
    for item in items:
        result.append("- " + escape(" ".join(item)))
    return [*result, ""]


def entries(lines):
    """(names, text) of a section's "name: text"."""
    text = "\n".join(dedent(lines))
    # A line that goes on is deeper than the one that begins an entry.
    found = [match for match in _ENTRY.finditer(text) if not match.group(0).startswith(" ")]
    if not found or found[0].start() > 0:
        return None
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [
        (match.group(1), text[match.end() : end].rstrip().removesuffix(";"))
        for match, end in zip(found, ends, strict=True)
    ]


def section(title, lines):
    if title == "Example":
        return [".. rubric:: Example", "", *dedent(lines), ""]
    named = entries(lines) if title in ("Arguments", "Attributes", "Raises") else None
    result = [f":{title}:"]
    if named is None:
        return ["", *result, *indent(prose(lines)), ""]
    for names, text in named:
        first, *rest = text.split("\n")
        # "others: as for ..." speaks of what has no entry.
        words = names if names == "others" else re.sub(r"[*\w]+", r"``\g<0>``", names)
        code = " ".join(words.split())
        body = "\n".join(prose([first.strip(), *dedent(rest)])).strip("\n").split("\n")
        result += indent([code, *indent(body), ""])
    return ["", *result, ""]


def convert(lines):
    sections, title, current = [], None, []
    for line in [*lines, None]:
        match = None if line is None else _SECTION.match(line)
        # A section's text is indented, or its paragraph ends with an empty line.
        over = title not in (None, "Example") and line is not None and line and line[0] != " "
        after_gap = over and current and not current[-1].strip()
        if line is None or match or after_gap:
            if title is None:
                sections.append(prose(current))
            else:
                sections.append(section(title, current))
            title, current = None, []
        if match:
            title = _SECTIONS[match.group(1)]
            current = [match.group(2)] if match.group(2) else []
        elif line is not None:
            current.append(line)
    return [line for part in sections for line in part]


def on_docstring(app, what, name, obj, options, lines):
    lines[:] = convert(list(lines))


def on_missing_reference(app, env, node, contnode):
    """A name without a place in the reference is shown as code, if there is such a name."""
    module, _, rest = node.get("reftarget", "").partition(".")
    if node.get("reftype") != "obj" or module != "bcenet":
        return None
    names, value = rest.split("."), importlib.import_module(module)
    for i, name in enumerate(names):
        try:
            value = getattr(value, name, None) or importlib.import_module(
                ".".join([module, *names[: i + 1]])
            )
        except ImportError:
            return None  # which is a warning
    return contnode


def setup(app):
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("missing-reference", on_missing_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
