"""The documentation site's sources: formulas and code name each other, links lead somewhere, and
every public name has its place in the reference. (`make docs` builds it, with warnings as errors.)
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re

import pytest

import bcenet

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
if not (DOCS / "conf.py").exists():
    pytest.skip("the sources are not here", allow_module_level=True)

PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts
}
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


# ------------------------------------------------------------------- formulas and their lines

MARK = re.compile(r"\[formula ([a-z0-9-]+)\]")
LABEL = re.compile(r"^:label: ([a-z0-9-]+)$", re.MULTILINE)
# What the engine computes; the factors that cancel are computed to be looked at alone.
FACTORS = {"cost-derivative", "sigmoid-derivative", "cancellation"}
COMPUTED = {
    "forward",
    "sigmoid",
    "stable-loss",
    "fused-gradient",
    "hidden-da",
    "hidden-dz",
    "weight-gradient",
    "bias-gradient",
    *(f"{name}-slope" for name in ("relu", "sigmoid", "tanh", "silu", "gelu", "elu", "softplus")),
}


def marks():
    """{name: [file:line]} of the sources."""
    found = {}
    for path in [*ROOT.glob("src_cython/*.p*"), *ROOT.glob("bcenet/**/*.py")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for name in MARK.findall(line):
                found.setdefault(name, []).append(f"{path.relative_to(ROOT)}:{number}")
    return found


def test_formulas_and_lines_name_each_other():
    labels = [label for text in PAGES.values() for label in LABEL.findall(text)]
    assert len(set(labels)) == len(labels)
    found = marks()
    assert set(found) <= set(labels), "a line names a formula that no page has"
    assert set(found) == COMPUTED | FACTORS
    # The kernels themselves, not the Python beside them alone.
    for name in COMPUTED:
        assert any(place.startswith("src_cython") for place in found[name]), name


def test_marked_lines_are_code():
    """A mark at a line's end is on code; a mark in a comment has code below it."""
    for places in marks().values():
        for place in places:
            file, number = place.split(":")
            lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
            line = lines[int(number) - 1].strip()
            below = lines[int(number)].strip()
            assert not line.startswith("#") or (below and not below.startswith("#")), place


# ------------------------------------------------------------------------------------- pages


def anchors(text):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()) for title in titles]
    return {title.strip().replace(" ", "-") for title in kept}


def links():
    """(page, target) of every link to another place of the repository."""
    for page, text in PAGES.items():
        for target in LINK.findall(CODE.sub("", FENCE.sub("", text))):
            yield page, target


def test_links_lead_somewhere():
    count = 0
    for page, target in links():
        if re.match(r"https?:", target):
            continue
        count += 1
        path, _, anchor = target.partition("#")
        there = (DOCS / page).parent / path if path else DOCS / page
        assert there.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page}: {target}"
    assert count > 30


def test_links_of_the_readme():
    for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in LINK.findall(CODE.sub("", FENCE.sub("", text))):
            if not re.match(r"https?:", target):
                path = target.partition("#")[0]
                assert ((ROOT / name).parent / path).exists(), f"{name} links to {target}"
        for path in re.findall(r"`(docs/[\w./-]+\.md)`", text):
            assert (ROOT / path).exists(), f"{name} names {path}"


def test_every_page_is_in_a_table_of_contents():
    listed = {"index.md"}
    for page, text in PAGES.items():
        for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            lines = [line for line in block.splitlines() if line and line[0] != ":"]
            names = [line.rpartition("<")[2].rstrip(">") for line in lines]
            folder = pathlib.PurePosixPath(page).parent
            listed |= {(folder / f"{name}.md").as_posix() for name in names}
    assert set(PAGES) <= listed


def test_nothing_is_fetched_from_other_hosts():
    """Scripts, styles, fonts and pictures are files of the site."""
    for page, target in links():
        picture = f"]({target})" in PAGES[page] and re.search(
            rf"!\[[^\]]*\]\({re.escape(target)}\)", PAGES[page]
        )
        assert not (picture and re.match(r"https?:", target)), f"{page} shows {target}"
    own = [*DOCS.rglob("*.css"), *DOCS.rglob("*.svg"), DOCS / "conf.py"]
    for path in [path for path in own if "_build" not in path.parts]:
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|@import|url\((?!#)", text), path


# --------------------------------------------------------------------------------- reference

DIRECTIVE = re.compile(
    r"^\.\. (?:auto(module|function|class|exception)|py:data):: (bcenet[\w.]*)(?:\(\))?\n"
    r"((?:   :.*\n)*)",
    re.MULTILINE,
)
# Modules that are edges or are reached from the package, with the names that users take.
MODULES = [
    "bcenet",
    "bcenet.calibration",
    "bcenet.callbacks",
    "bcenet.dask",
    "bcenet.data",
    "bcenet.explain",
    "bcenet.metrics",
    "bcenet.mpi",
    "bcenet.schedules",
    "bcenet.sklearn",
    "bcenet.tabular",
]
# What modules without an `__all__` hold for bcenet itself.
INTERNAL = {
    "bcenet.callbacks.Callbacks",
    "bcenet.callbacks.describe_losses",
    "bcenet.callbacks.memory_in_use",
    "bcenet.callbacks.shows_progress",
    "bcenet.schedules.resolve",
}


def documented():
    """Full names that the reference has entries for."""
    names = set()
    for page, text in PAGES.items():
        if not page.startswith("reference/"):
            continue
        for kind, name, options in DIRECTIVE.findall(text + "\n"):
            names.add(name)
            if kind == "module" and ":members:" in options:
                names |= {f"{name}.{public}" for public in importlib.import_module(name).__all__}
    return names


def public(module):
    """Names of a module that are for users."""
    module = importlib.import_module(module)
    if module.__name__ == "bcenet.mpi":
        names = ["fit"]  # the rest are its parts
    elif hasattr(module, "__all__"):
        names = module.__all__
    else:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
        ]
    return {f"{module.__name__}.{name}" for name in names} - INTERNAL


def resolve(name):
    """The object of a full name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise AssertionError(name)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module):
    there = documented()
    objects = [resolve(name) for name in there]
    for name in public(module):
        # The same object may be documented under a shorter or a longer name.
        assert name in there or any(resolve(name) is known for known in objects), name


def test_the_reference_names_what_there_is():
    for name in documented():
        resolve(name)


def test_every_public_name_says_what_it_is():
    for module in MODULES:
        for name in public(module):
            value = resolve(name)
            if not isinstance(value, str):
                assert (inspect.getdoc(value) or "").strip(), name


def test_docstrings_have_no_markup_that_the_site_does_not_know():
    """Roles and directives of reStructuredText would be shown as they stand."""
    for path in (ROOT / "bcenet").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r":(?:class|meth|func|mod|attr|data|ref|py:\w+):`", text), path


def test_names_in_pages_exist():
    """`bcenet.x.y` in the prose of a page is a name of the package."""
    seen = set()
    for text in PAGES.values():
        prose = FENCE.sub("", text)
        for name in re.findall(r"`(bcenet(?:\.\w+)+)\b[^`\n]*`", prose):
            if name.startswith("bcenet.cimports"):  # no module of Python's
                continue
            seen.add(name)
            resolve(name)
    assert len(seen) > 30
    assert isinstance(bcenet.__version__, str)
