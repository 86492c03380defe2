"""Text that UTF-8 cannot hold: half of a surrogate pair, as in JSON's "\\ud800", or a file name in another encoding.

Files, pages, tokenizers and HTTP write text in UTF-8, so such text is refused where it comes in.

>>> is_utf8("caf\\xe9"), is_utf8("caf\\udce9"), printable("caf\\udce9")
(True, False, 'caf\\\\xe9')
"""

import os


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str | os.PathLike[str]) -> str:
    r"""A text or path that can be written: bytes of a file name that are no UTF-8 become \xe9, halves \ud800."""
    text = os.fspath(text)
    if is_utf8(text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
