"""Pages that are made from the code: the settings, and every kind of problem."""

import inspect
import re
from html import escape
from http import HTTPStatus

from api import Problem
from contract.openapi import Problems, all_codes
from settings import Settings

_FOREIGN = ("asyncpg", "sqlalchemy", "starlette")
_SETTINGS = """# Settings

Every setting is an environment variable, or a line of `.env`. Lists are separated by commas.

| name | default | what it is |
|---|---|---|
"""
_PROBLEMS = """# Problems

What fails answers `application/problem+json` (RFC 9457):

```json
{"success": false, "type": "/problems#not_found", "title": "No such thing, or not yours", "status": 404,
 "detail": "No such thing, or not yours.", "code": "not_found",
 "request_id": "0c9e6d1f4b7a4c5d8e2f3a4b5c6d7e8f"}
```

`code` is for programs, `detail` for people. `errors` names every offending field with `loc` and `msg`, and
inside workflows and their params with a JSON `pointer`. New codes may come: treat one that you do not know as
its `status` says. 429 and 503 say in `Retry-After` when to come back.

| code | status | title | when |
|---|---|---|---|
"""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Problems</title>
<style>
  :root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }}
  body {{ max-width: 45rem; margin: 2rem auto; padding: 0 1rem }}
  dt {{ margin-top: 1.5rem; font-weight: 600 }}
  dt:target {{ outline: 2px solid; outline-offset: 0.25rem }}
  dd {{ margin: 0.25rem 0 0 }}
</style>
<h1>Problems</h1>
<p>What a request can fail with, by the <code>code</code> of the answer.</p>
<dl>
{items}
</dl>
</html>
"""


def settings_page() -> str:
    """docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        shown = "" if field.default in ("", (), None) else f"`{default}`"
        rows.append(f"| `{name.upper()}` | {shown} | {field.description} |\n")
    return _SETTINGS + "".join(rows)


def problems_page(problems: Problems) -> str:
    """docs/problems.md."""
    rows = []
    for code, found in all_codes(problems).items():
        of = found[0][1]
        rows.append(f"| `{code}` | {of.status} | {of.title} | {_when(found)} |\n")
    return _PROBLEMS + "".join(rows)


def problems_html(problems: Problems) -> str:
    """The page that a problem's `type` leads to."""
    items = []
    for code, found in all_codes(problems).items():
        of = found[0][1]
        phrase = HTTPStatus(of.status).phrase
        items.append(f'<dt id="{code}"><code>{code}</code> · {of.status} {phrase}</dt>')
        items.append(f"<dd>{escape(of.title)}. {_marked(_when(found))}</dd>")
    return _PAGE.format(items="\n".join(items))


def _when(found: list[tuple[type[Exception] | None, Problem]]) -> str:
    """When it happens, in the words of the exceptions themselves."""
    said = dict.fromkeys(_meaning(kind, of) for kind, of in found)
    return " ".join(sentence for sentence in said if sentence)


def _meaning(kind: type[Exception] | None, of: Problem) -> str:
    if kind is None or kind.__module__.split(".")[0] in _FOREIGN:
        return of.detail or ""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
