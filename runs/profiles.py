"""Profiles: cookies and storage that computers and runs begin with, sealed."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.responses import Response

import db
from browser.site_storage import Databases
from models import Profile
from runs.parameters import Invalid, Problem
from schemas import ProfileRead, ProfileState

MAX_COOKIES, MAX_ORIGINS, MAX_ITEMS, MAX_STATE_BYTES = 5_000, 200, 2_000, 8 * 2**20
MAX_SHOWN_DOMAINS = 1_000
HTTP_ONLY = "#HttpOnly_"
SAME_SITE = {"strict": "Strict", "lax": "Lax", "none": "None", "no_restriction": "None"}


class InvalidState(Invalid):
    """The cookies or the storage are not in the form that they are said to be."""


Text = Annotated[str, StringConstraints(max_length=8192, pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")]
Host = Annotated[str, StringConstraints(to_lower=True, pattern=r"^\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")]


class Cookie(BaseModel):
    """A cookie as Playwright knows it; `expires` in Unix seconds, -1 for one of the session."""

    model_config = ConfigDict(extra="ignore")
    name: Text
    value: Text
    domain: Host
    path: Annotated[str, StringConstraints(max_length=1024, pattern=r"^/[^\x00-\x20;]*$")] = "/"
    expires: float = Field(-1, ge=-1, le=2**40, allow_inf_nan=False)
    httpOnly: bool = False  # noqa: N815 - Playwright's name
    secure: bool = False
    sameSite: Literal["Strict", "Lax", "None"] = "Lax"  # noqa: N815


class Item(BaseModel):
    """One entry of a local storage."""

    model_config = ConfigDict(extra="ignore")
    name: Annotated[str, StringConstraints(max_length=10_000)]
    value: Annotated[str, StringConstraints(max_length=2**20)]


class Storage(BaseModel):
    """What an origin keeps."""

    model_config = ConfigDict(extra="ignore")
    origin: Annotated[str, StringConstraints(max_length=300, pattern=r"^https?://[^/\s]+$")]
    localStorage: list[Item] = Field([], max_length=MAX_ITEMS)  # noqa: N815
    indexedDB: Databases = []  # noqa: N815


class State(BaseModel):
    """Playwright's storage state."""

    model_config = ConfigDict(extra="ignore")
    cookies: list[Cookie] = Field([], max_length=MAX_COOKIES)
    origins: list[Storage] = Field([], max_length=MAX_ORIGINS)


# In -----------------------------------------------------------------------------------------------


async def import_state(tx: db.Tx, profile: Profile, body: ProfileState) -> Response:
    """Replace the profile's cookies and storage by what was sent. Raises InvalidState."""
    if body.storage_state is not None:
        state = _parsed(body.storage_state, "/storage_state")
    elif body.cookies_txt is not None:
        state = _parsed({"cookies": list(read_cookies_txt(body.cookies_txt))}, "/cookies_txt")
    else:
        cookies = [_from_extension(cookie) for cookie in body.cookies or []]
        state = _parsed({"cookies": cookies}, "")
    return await tx.update(Profile, ProfileRead, profile.id, **_columns(tx, profile.id, state))


async def save(tx: db.Tx, id: UUID, state: Mapping[str, Any]) -> ProfileRead:
    """Keep a browser's storage state in the profile. Raises NoResultFound, InvalidState."""
    await tx.one(Profile, lock=True, id=id)
    kept = {"cookies": state.get("cookies", []), "origins": state.get("origins", [])[:MAX_ORIGINS]}
    (row,) = await tx.change(Profile, {"id": id}, **_columns(tx, id, _parsed(kept, "")))
    tx.announce("profile.updated", row, ProfileRead)
    return ProfileRead.model_validate(row)


# Out ----------------------------------------------------------------------------------------------


async def load(user_id: str, id: UUID) -> dict[str, Any] | None:
    """The storage state that a browser begins with, None of an empty profile.

    Raises NoResultFound, infra.vault.Unsealable.
    """
    async with db.as_user(user_id) as tx:
        profile = await tx.one(Profile, id=id)
        if profile.state is None:
            return None
        state: dict[str, Any] = orjson.loads(tx.unseal(Profile, "state", id, profile.state))
    return state


# Forms --------------------------------------------------------------------------------------------


def read_cookies_txt(text: str) -> Iterable[dict[str, Any]]:
    """The cookies of a Netscape cookies.txt: seven columns between tabs. Raises InvalidState."""
    for number, line in enumerate(text.splitlines(), 1):
        http_only = line.startswith(HTTP_ONLY)
        row = line.removeprefix(HTTP_ONLY).rstrip("\r\n")
        if not row.strip() or (row.startswith("#") and not http_only):
            continue
        columns = row.split("\t")
        if len(columns) == 6:
            columns.append("")
        if len(columns) != 7 or not re.fullmatch(r"-?[0-9]{1,12}", columns[4]):
            raise InvalidState([Problem("/cookies_txt", f"Line {number} is not a cookie")])
        domain, _, path, secure, expires, name, value = columns
        yield {
            "name": name,
            "value": value,
            "domain": domain,
            "path": path,
            "expires": int(expires) if int(expires) > 0 else -1,
            "secure": secure.upper() == "TRUE",
            "httpOnly": http_only,
        }


def _from_extension(cookie: Mapping[str, Any]) -> dict[str, Any]:
    """A cookie as Chrome's extension interface tells it, or already as Playwright does."""
    given = dict(cookie)
    if "expirationDate" in given:
        given["expires"] = given.pop("expirationDate")
    if given.pop("session", False) is True or given.get("expires") is None:
        given.pop("expires", None)
    same_site = str(given.pop("sameSite", "")).lower()
    if same_site in SAME_SITE:
        given["sameSite"] = SAME_SITE[same_site]
    return given


def _parsed(value: Mapping[str, Any], place: str) -> State:
    try:
        state = State.model_validate(value)
    except ValidationError as error:
        raise InvalidState(
            [
                Problem(f"{place}/{'/'.join(map(str, item['loc']))}", item["msg"])
                for item in error.errors(include_input=False, include_url=False)[:20]
            ]
        ) from None
    now = datetime.now(UTC).timestamp()
    state.cookies = [cookie for cookie in state.cookies if cookie.expires == -1 or cookie.expires > now]
    for cookie in state.cookies:
        if cookie.sameSite == "None" and not cookie.secure:  # which Chromium takes from nobody
            cookie.sameSite = "Lax"
    return state


def _columns(tx: db.Tx, id: UUID, state: State) -> dict[str, Any]:
    data = state.model_dump_json(exclude_none=True).encode()
    if len(data) > MAX_STATE_BYTES:
        raise InvalidState([Problem("", f"Together it is larger than {MAX_STATE_BYTES} bytes")])
    hosts = {cookie.domain.lstrip(".") for cookie in state.cookies}
    hosts |= {urlsplit(storage.origin).hostname or "" for storage in state.origins}
    return {
        "state": tx.seal(Profile, "state", id, data),
        "domains": sorted(hosts)[:MAX_SHOWN_DOMAINS],
        "cookie_count": len(state.cookies),
        "origin_count": len(state.origins),
        "saved_at": datetime.now(UTC),
    }
