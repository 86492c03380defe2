"""How large a page of the attention viewer is, and how soon it shows something.

    python benchmarks/viewer.py                          # 100 heads, 300 words, 1,500 tokens
    python benchmarks/viewer.py --heads 40 --kind even

Attention is made up: "attention" is the softmax of noise, "even" uses every level equally often, the worst case. Needs
Chromium, as the tests of pages do. Best of three openings; "hover" is until a word has been hovered over.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from browsers import chromium  # noqa: E402
from viewing import page_of  # noqa: E402

ROWS, COLUMNS = 30, 50
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"


def opening(browser, path: Path) -> tuple[float, float]:
    """Seconds until the first paint with contents, and until a word was hovered over."""
    context = browser.new_context(offline=True)
    tab, started = context.new_page(), time.perf_counter()
    tab.goto(path.as_uri())
    tab.hover(".gaze-viewer .word[data-word='7']")
    hovered = time.perf_counter() - started
    painted = tab.evaluate(PAINT)
    context.close()
    return painted, hovered


def main() -> None:
    """Make a page, open it, print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=100)
    parser.add_argument("--words", type=int, default=300)
    parser.add_argument("--kind", choices=["attention", "even"], default="attention")
    args = parser.parse_args()
    part = ROWS * COLUMNS // 6
    tokens = [list(range(part * i, part * (i + 1))) for i in range(6)]
    regions = [{"name": f"panel {i}", "image": 0, "tokens": some, "outline": []} for i, some in enumerate(tokens, 1)]
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder) / "page.html"
        started = time.perf_counter()
        path.write_text(page_of(args.heads, args.words, (ROWS, COLUMNS), kind=args.kind, regions=regions))
        made = time.perf_counter() - started
        painted, hovered = (min(times) for times in zip(*(opening(browser, path) for _ in range(3)), strict=True))
        size = path.stat().st_size / 1e6
    what = f"{args.heads} heads x {args.words} words x {ROWS * COLUMNS} tokens, {args.kind}"
    print(f"{what}: {size:.1f} MB, made in {made:.1f} s, first paint {painted:.1f} s, hover {hovered:.1f} s")  # noqa: T201


if __name__ == "__main__":
    main()
