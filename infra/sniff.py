"""What a file is, told by its bytes: its name is only a claim."""

import mimetypes
import re

import puremagic

HEAD_BYTES = 4096
UNKNOWN = "application/octet-stream"
PICTURES = {
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
"""What a browser may show by itself: rasters, which hold no script."""

MARKUP = frozenset({"text/html", "text/xml", "application/xml", "application/xhtml+xml", "image/svg+xml"})
ACTIVE = MARKUP | {"text/javascript", "application/javascript", "text/css"}
"""What could act in a browser, were it sent as what it is."""

_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # MIME Sniffing Standard, section 3
_SVG = re.compile(rb"<(\w+:)?svg[\s>/]", re.IGNORECASE)
_TAG = re.compile(rb"<[A-Za-z!]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_TEXTS = frozenset({"application/json", "application/javascript", "application/sql", "application/x-sh"})
_PRINTED = frozenset({"application/pdf", "application/rtf", "application/postscript"})
_ZIP = b"PK\x03\x04"
_NAMED = 0.9  # puremagic's confidence in a signature that the name agrees with
_SURE = 0.3  # and in three bytes of one


def content_type(head: bytes, name: str) -> str:
    """The media type of a file that begins with `head`; `name` decides only among what the bytes allow."""
    if head.startswith(_UTF16):
        return "text/plain"
    if _BINARY.search(head):
        found = _signature(head, name)
        return UNKNOWN if found in MARKUP or found.startswith("text/") else found
    if head and (found := _signature(head, name)) in _PRINTED:
        return found
    return _text_type(head.removeprefix(_UTF8_MARK).lstrip(), mimetypes.guess_type(name)[0] or "")


def _text_type(head: bytes, named: str) -> str:
    if head.startswith(b"<?xml") or _TAG.match(head):
        if _SVG.search(head):
            return "image/svg+xml"
        if head.startswith(b"<?xml"):
            return "application/xml"
        return named if named in MARKUP else "text/html"
    return named if named.startswith("text/") or named in _TEXTS else "text/plain"


def _signature(head: bytes, name: str) -> str:
    """The type whose signature the bytes bear: the one that the name says too, else the longest."""
    for kind, pattern in PICTURES.items():
        if pattern.match(head):
            return kind
    try:
        best = puremagic.magic_string(head, name)[0]
    except puremagic.PureError:
        return UNKNOWN
    if best.confidence < _SURE or not best.mime_type or best.mime_type in PICTURES:
        return UNKNOWN
    return "application/zip" if best.byte_match == _ZIP and best.confidence < _NAMED else best.mime_type
