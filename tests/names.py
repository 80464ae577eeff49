"""Names of cases that are the same in every process, so that several may share the work."""

import re

CHANGING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{10,}|\d{10,}(\.\d+)?|M[CI][A-Za-z0-9+/=\\]{30,}")


def stable(value: object) -> str:
    """The value in ASCII without addresses, keys, ids and instants."""
    return CHANGING.sub("~", ascii(value))[:200]
