"""python -m studies.steering --out docs/steering_study: all measurements, then figures and page."""

import argparse
import json
from pathlib import Path

from studies.steering.measuring import measure
from studies.steering.report import write_report


def main() -> None:
    """Measure, or read what was measured, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m studies.steering", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="results.json and figures; the page is beside it")
    parser.add_argument("--work", type=Path, default=Path("steering_run"), help="what a stopped run goes on from")
    parser.add_argument("--strips", type=int, default=24, help="how many strips to measure on")
    parser.add_argument("--page", action="store_true", help="only the page and figures, from results.json")
    arguments = parser.parse_args()
    stored = arguments.out / "results.json"
    figures = json.loads(stored.read_text()) if arguments.page else measure(arguments.strips, arguments.work)
    write_report(figures, arguments.out)


if __name__ == "__main__":
    main()
