"""What tests measured of each family, for the table in docs/families.md.

    record("Qwen3-VL", eager_difference=0.0)

`python docs/make_families.py` runs the tests with GAZE_LENS_MEASUREMENTS set to a file, and reads that file.
"""

import json
import os

VARIABLE = "GAZE_LENS_MEASUREMENTS"
RECORDS = {}


def record(name, /, **facts):
    """Numbers keep the largest of what is recorded under a name, lists grow, anything else is replaced."""
    kept = RECORDS.setdefault(name, {})
    for fact, value in facts.items():
        before = kept.get(fact)
        if isinstance(value, list):
            kept[fact] = [*(before or []), *(one for one in value if one not in (before or []))]
        elif isinstance(value, int | float) and before is not None:
            kept[fact] = max(before, value)
        else:
            kept[fact] = value


def write():
    """Write the records where the environment variable asks for them."""
    if os.environ.get(VARIABLE):
        with open(os.environ[VARIABLE], "w") as file:
            json.dump(RECORDS, file, indent=1)
