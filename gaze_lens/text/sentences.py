"""The sentences of a text, as ranges of its characters.

>>> [text[one.start : one.stop] for text in ["A dog. It runs! Why"] for one in sentences(text)]
['A dog.', 'It runs!', 'Why']
"""

import re


def sentences(text: str) -> list[range]:
    """Each sentence without the space around it: it ends at `.`, `!` or `?` before a space, at `。`, and with a line.

    What has no letter and no digit, such as a bullet, is no sentence. "Mr. Smith" is cut in two: what stands before
    a space after a full stop cannot be told from the end of a sentence without knowing the language.
    """
    ends = re.finditer(r"[^\n]*?(?:[.!?]+[\"')\]]*(?=\s|$)|[。！？]|(?=\n)|$)\n?", text)
    found = []
    for match in ends:
        part = match.group()
        if re.search(r"\w", part):
            start = match.start() + len(part) - len(part.lstrip())
            found.append(range(start, match.start() + len(part.rstrip())))
    return found
