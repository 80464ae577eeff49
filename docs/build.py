"""Writes the documents that are made from the code; `make docs`."""

import json
from pathlib import Path

from backend_websocket_server import PROBLEMS, app
from contract import asyncapi, pages


def documents() -> dict[str, str]:
    """What each of them says, by its name in this directory."""
    return {
        "openapi.json": _json(app.openapi()),
        "asyncapi.json": _json(asyncapi.document()),
        "settings.md": pages.settings_page(),
        "problems.md": pages.problems_page(PROBLEMS),
    }


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, text in documents().items():
        Path(__file__).with_name(name).write_text(text, encoding="utf-8")
