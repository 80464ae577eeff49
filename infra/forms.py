"""Uploads as browsers send them: one file in a multipart form (RFC 7578), read while it arrives."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

FIELD_BYTES = 4096
FORM_BYTES = 64 * 1024  # what a form may weigh beside its file

logging.getLogger("python_multipart").setLevel(
    logging.CRITICAL
)  # what it would warn of is told to the sender


class NotAForm(Exception):
    """The body is not a multipart form."""


class FieldProblem(NamedTuple):
    """What is wrong with one field, named by a JSON pointer."""

    pointer: str
    message: str


class InvalidForm(Exception):
    """The form is broken, or its parts are not what is expected.

    `problems` names the field, if it is one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.problems = [FieldProblem(f"/{field}", message)] if field else []


class FileForm:
    """A form of exactly one file, `file`, and at most one of each of the small text `fields`.

    Raises NotAForm for another `content_type`, InvalidForm for one without a boundary.
    """

    def __init__(self, content_type: str, fields: tuple[str, ...] = ()) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise NotAForm("Send the file as multipart/form-data.")
        if not options.get(b"boundary"):
            raise InvalidForm("The Content-Type names no boundary.")
        self.file_name = ""
        """What the sender calls the file; of `fields`, complete once the file has been read."""
        self.fields: dict[str, str] = {}
        self._allowed = {"file", *fields}
        self._texts: dict[str, bytearray] = {}
        self._headers: dict[bytes, bytes] = {}
        self._header = [b"", b""]
        self._part = ""
        self._ended = False
        self._ready: list[bytes] = []
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidForm(f"{error}.") from error

    async def file(self, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The file's bytes as they come. Raises InvalidForm, at the latest at the end."""
        async for chunk in body:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise InvalidForm(f"The form cannot be read: {error}.") from error
            if self._ready:
                yield b"".join(self._ready)
                self._ready.clear()
        if not self._ended:
            raise InvalidForm("The form is cut short: its last boundary is missing.")
        if "file" not in self._texts:
            raise InvalidForm("Exactly one file is needed.", "file")
        for name, text in self._texts.items():
            if name != "file":
                self.fields[name] = _decoded(bytes(text))

    def _add_header(self, part: int, data: bytes) -> None:
        self._header[part] += data

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = [b"", b""]

    def _begin_part(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = _decoded(options.get(b"name", b""))
        if kind != b"form-data" or not name:
            raise InvalidForm("A part does not say which field it is.")
        if name not in self._allowed:
            raise InvalidForm("This field is not known here.", name[:100])
        if name in self._texts:
            raise InvalidForm("Exactly one is allowed.", name)
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise InvalidForm("Send its bytes as they are, in no transfer encoding.", name)
        if name == "file":
            self.file_name = _decoded(options.get(b"filename", b""))
        self._part = name
        self._texts[name] = bytearray()

    def _add_data(self, data: bytes) -> None:
        if self._part == "file":
            self._ready.append(data)
            return
        text = self._texts[self._part]
        text += data
        if len(text) > FIELD_BYTES:
            raise InvalidForm(f"At most {FIELD_BYTES} bytes are allowed.", self._part)

    def _end(self) -> None:
        self._ended = True


def _decoded(text: bytes) -> str:
    """UTF-8, which forms are in; what is not cannot be told and is taken for Latin-1."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
