"""The numbers of a figure as a table of text.

csv_of(plot.data)            # what plot.to_csv(path) writes
"""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np


def csv_of(data: Mapping[str, Any]) -> str:
    """The numbers of a figure as a table: name, index (of each axis, with spaces), value.

    >>> print(csv_of({"rates": np.array([[0.5, 1.0]])}))
    name,index,value
    rates,0 0,0.5
    rates,0 1,1.0
    <BLANKLINE>
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "index", "value"))
    for name, values in data.items():
        array = np.asarray(values)
        table.writerows((name, " ".join(map(str, index)), array[index].item()) for index in np.ndindex(array.shape))
    return text.getvalue()
