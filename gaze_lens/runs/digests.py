"""Fingerprints: short texts that are equal where what they were made from is equal.

>>> digest("a text", b"and bytes")[:16]
'225c37d3c65ed7ae'
"""

import hashlib


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, one after another, as 64 hexadecimal digits; cut it where a short name is enough."""
    return hashlib.sha256(b"".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()
