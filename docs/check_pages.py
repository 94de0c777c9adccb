"""Open every page of the built site in Chromium, and look for what a reader would stumble over.

    make docs
    pip install playwright
    python docs/check_pages.py docs/_build/html --chromium /usr/bin/chromium

Each page is opened at the widths of a desk and of a phone, light and dark. There must be no message
on the console, no request to a host (the pages are files; all requests but for files are blocked
and counted), no page wider than the window, no formula and no picture of no size, and enough
contrast of text to its background. ``--pictures FOLDER`` keeps a screenshot of each.
"""

import argparse
import itertools
import pathlib
import sys

from playwright.sync_api import sync_playwright

WIDTHS = {"desk": 1280, "phone": 390}
SCHEMES = ("light", "dark")

# What is wrong with a page as it stands in the browser.
LOOK = """
() => {
  const found = [];
  const shown = e => e.getClientRects().length && getComputedStyle(e).visibility != "hidden";
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) {
    const wide = [...document.querySelectorAll("article *")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
      .map(e => e.tagName + "." + e.className).slice(0, 3);
    found.push(`the page is ${width} wide: ${wide}`);
  }
  const article = document.querySelector("article, [role=main]");
  for (const e of article.querySelectorAll("math, img, svg")) {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height) found.push(`${e.tagName} of no size: ${e.textContent || e.src}`);
    if (e.tagName == "IMG" && !e.naturalWidth) found.push(`a picture that is not there: ${e.src}`);
  }
  for (const e of article.querySelectorAll(".math-scroll")) {
    if (e.scrollHeight > e.clientHeight + 1) found.push(`a formula cut off: ${e.textContent}`);
  }
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = e => {
    for (; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color.length == 3 || color[3] == 1) return color;
    }
    return [255, 255, 255];
  };
  const poor = new Map();
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !shown(e)) continue;
    if (e.closest("style, script, .headerlink")) continue;
    const style = getComputedStyle(e);
    const color = channels(e.closest("svg") ? style.fill : style.color);
    if (color.length == 4 && color[3] < 1) continue;
    const pair = [light(color), light(background(e))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 3) poor.set(`${style.color} on ${background(e)}`, walk.currentNode.data.trim());
  }
  for (const [colors, text] of poor) found.push(`hard to read (${colors}): ${text.slice(0, 40)}`);
  return {found, counted: ["math", "img", "svg", "table"]
    .map(name => article.querySelectorAll(name).length)};
}
"""


def look_at(context, site, names, pictures):
    """{page: [what is wrong]}, the requests to other hosts, and how many formulas and such."""
    messages, outside, counted, wrong = [], [], [0, 0, 0, 0], {}
    context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    page = context.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("requestfailed", lambda request: messages.append(f"no {request.url}"))
    page.on("request", lambda request: outside.append(request.url))
    for name in names:
        page.goto((site / name).as_uri(), wait_until="load")
        looked = page.evaluate(LOOK)
        wrong[name] = messages + looked["found"]
        messages.clear()
        counted = [a + b for a, b in zip(counted, looked["counted"], strict=True)]
        if pictures:
            flat = name.removesuffix(".html").replace("/", "-")
            page.screenshot(path=f"{pictures}-{flat}.png", full_page=True)
    return wrong, [url for url in outside if not url.startswith("file:")], counted


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=pathlib.Path, help="the folder with index.html")
    parser.add_argument("--chromium", help="an installed browser; else Playwright's own")
    parser.add_argument("--pictures", type=pathlib.Path, help="keep screenshots here")
    options = parser.parse_args(arguments)
    site = options.site.resolve()
    names = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    if not names:
        parser.error(f"site must hold pages; got {options.site}")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    faults = requests = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium)
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            context = browser.new_context(
                viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme
            )
            pictures = options.pictures and options.pictures / f"{width}-{scheme}"
            wrong, outside, counted = look_at(context, site, names, pictures)
            context.close()
            for name, texts in wrong.items():
                for text in texts:
                    faults += 1
                    print(f"{name} ({width}, {scheme}): {text}")
            for url in outside:
                requests += 1
                print(f"({width}, {scheme}) a request to another host: {url}")
        browser.close()
    formulas, images, drawings, tables = counted
    print(
        f"{len(names)} pages, opened {len(names) * 4} times: {formulas} formulas, {images} "
        f"pictures, {drawings} drawings, {tables} tables; {faults} faults, "
        f"{requests} requests to other hosts"
    )
    return 1 if faults or requests else 0


if __name__ == "__main__":
    sys.exit(main())
