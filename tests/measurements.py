"""What tests measured of each family, for the table in docs/families.md.

    record("Qwen3-VL", eager_difference=0.0)

`python docs/make_families.py` runs the tests with GAZE_LENS_MEASUREMENTS set to a file, and reads that file.
"""

import json
import os

VARIABLE = "GAZE_LENS_MEASUREMENTS"
RECORDS = {}


def record(family, **facts):
    """Numbers keep the largest of what is recorded under a name, lists grow, anything else is replaced."""
    kept = RECORDS.setdefault(family, {})
    for name, value in facts.items():
        before = kept.get(name)
        if isinstance(value, list):
            kept[name] = [*(before or []), *(one for one in value if one not in (before or []))]
        elif isinstance(value, int | float) and before is not None:
            kept[name] = max(before, value)
        else:
            kept[name] = value


def write():
    """Write the records where the environment variable asks for them."""
    if os.environ.get(VARIABLE):
        with open(os.environ[VARIABLE], "w") as file:
            json.dump(RECORDS, file, indent=1)
