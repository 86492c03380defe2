"""Progress of long work: tqdm's bar on a terminal and in a notebook, whole lines in a log.

    with Bar(total=24, desc="strips", unit="strip") as bar:
        bar.update()

In a file a bar that is drawn again and again is one endless line, so there a stage has a line when it ends, such as
"strips: 24 of 24 in 00:14", and one a minute before.
"""

import sys
from typing import Any

from tqdm.auto import tqdm

SECONDS = 60.0  # between two lines in a log


class Bar(tqdm):
    """`Bar(total=24, desc="strips")`: arguments as for `tqdm.tqdm`."""

    disable: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        self.told: int | None = None
        self.in_log = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        if self.in_log:
            options = {**options, "mininterval": SECONDS, "maxinterval": SECONDS, "miniters": 1}
        super().__init__(*args, **options)

    def display(self, *args: Any, **options: Any) -> Any:
        """In a log: a line with what is done so far, unless nothing is."""
        if not self.in_log:
            return super().display(*args, **options)
        if self.n != self.told and (self.n > self.initial or self.n == self.total):
            self.told = self.n
            elapsed = self.format_interval(self.format_dict["elapsed"])
            of = "" if self.total is None else f" of {self.total}"
            more = f", {self.postfix}" if self.postfix else ""
            sys.stderr.write(f"{self.desc}: {self.n}{of} in {elapsed}{more}\n")
            sys.stderr.flush()
        return True

    def close(self) -> None:
        """In a log: the last line."""
        if self.in_log and not self.disable:
            self.display()
            self.disable = True
            self._decr_instances(self)
        super().close()
