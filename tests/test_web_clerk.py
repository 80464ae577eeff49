"""The web app where Clerk signs people in, with a stand-in of its scripts and key set on loopback.

The stand-in's script has what `@clerk/react` asks of Clerk's own: it loads, says who is signed in, and gives tokens.
"""

import asyncio
import base64
import datetime as dt
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from playwright.async_api import Browser, expect

from tests.clerk import KEY, KeyServer, key_server
from tests.conftest import free_port
from tests.web import DESK, Visitor, WebApp

pytestmark = pytest.mark.timeout(180)

UNREACHED = "Clerk: Failed to load"  # its own complaint, which nobody can take from it
SCRIPT = """(() => {
  const origin = new URL(document.currentScript.src).origin;
  const listeners = new Set();
  const user = {id: 'user_1', organizationMemberships: []};
  const session = {
    id: 'sess_1', status: 'active', user, lastActiveToken: {jwt: {claims: {sub: 'user_1'}}}, factorVerificationAge: null, actor: null,
    getToken: () => fetch(`${origin}/token`).then(reply => reply.text()),
  };
  const clerk = window.Clerk = {
    loaded: false, status: 'loading', client: null, user: null, session: null, organization: null, listeners,
    async load() { this.become(localStorage.getItem('in') === 'yes'); this.loaded = true; this.status = 'ready'; },
    become(signedIn) {
      localStorage.setItem('in', signedIn ? 'yes' : 'no');
      this.client = {sessions: signedIn ? [session] : [], signedInSessions: signedIn ? [session] : []};
      this.user = signedIn ? user : null;
      this.session = signedIn ? session : null;
      const {client, session: active, user: who} = this;
      this.__internal_lastEmittedResources = {client, session: active, user: who, organization: null};
      for (const listener of listeners) listener(this.__internal_lastEmittedResources);
    },
    addListener(listener, options) {
      listeners.add(listener);
      if (this.client && !options?.skipInitialEmit) listener(this.__internal_lastEmittedResources);
      return () => listeners.delete(listener);
    },
    on(event, listener, options) { if (options?.notify) listener(this.status); }, off() {},
    async signOut() { this.become(false); },
    mountSignIn(node) {
      const button = document.createElement('button');
      button.textContent = 'Sign in at Clerk';
      button.onclick = () => this.become(true);
      node.append(button);
    },
    unmountSignIn(node) { node.replaceChildren(); },
    __internal_updateProps() {},
  };
})();"""


@dataclass
class Clerk:
    """Its address as a publishable key names it, and the keys of its tokens."""

    host: str
    keys: KeyServer

    @property
    def publishable_key(self) -> str:
        return "pk_test_" + base64.b64encode(f"{self.host}$".encode()).decode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The scripts, and a token for whoever asks."""
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        kind, body = "text/javascript", SCRIPT
        if "/ui" in path:
            body = "window.__internal_ClerkUICtor = class {};"
        elif path == "/token":
            kind, body = "text/plain", self.keys.token(iss=f"https://{self.host}")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Access-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


def certificate(folder: Path) -> ssl.SSLContext:
    """Of 127.0.0.1, by nobody whom browsers know."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(KEY, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = KEY.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "clerk.pem").write_bytes(private + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "clerk.pem")
    return context


@pytest.fixture(scope="module")
async def clerk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clerk]:
    async with key_server() as keys:
        standing = Clerk("", keys)
        secure = certificate(tmp_path_factory.mktemp("clerk"))
        server = await asyncio.start_server(standing.answer, "127.0.0.1", 0, ssl=secure)
        standing.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield standing
        server.close()
        await server.wait_closed()


@pytest.fixture(scope="module")
async def at_clerk(clerk: Clerk, module_data: Path) -> AsyncIterator[WebApp]:
    """The web app whose people Clerk signs in."""
    extra = {"CLERK_PUBLISHABLE_KEY": clerk.publishable_key, "ALLOW_PRIVATE_NETWORK": "1"}
    keys = {"CLERK_JWKS_URL": f"{clerk.keys.issuer}/.well-known/jwks.json"}
    app = WebApp(module_data, free_port(), free_port(), extra | keys)
    await app.start()
    yield app
    assert await app.stop() == 0, app.said


@asynccontextmanager
async def visiting(app: WebApp, browser: Browser) -> AsyncIterator[Visitor]:
    context = await browser.new_context(
        base_url=app.url, viewport={"width": DESK[0], "height": DESK[1]}, ignore_https_errors=True
    )
    ada = Visitor(await context.new_page(), "clerk", app.url)
    try:
        yield ada
    finally:
        await ada.client.aclose()
        await context.close()
        assert [each for each in ada.complaints if not each.startswith(UNREACHED)] == []


async def test_who_signs_in_at_clerk_reaches_the_api_and_is_out_again_when_they_sign_out(
    at_clerk: WebApp, browser: Browser
) -> None:
    async with visiting(at_clerk, browser) as ada:
        page = ada.page
        await page.goto("/workflows")
        await expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fworkflows$"))
        await ada.button("Sign in at Clerk").click()
        await expect(page).to_have_url(re.compile("/workflows$"))
        await expect(page.get_by_text("No workflows yet")).to_be_visible()
        await ada.choose("New workflow", "Sample: read a page")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Read a page")
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Read a page")
        await ada.visit("/settings/sessions")
        await expect(page.get_by_text("Your sign-ins are kept elsewhere")).to_be_visible()
        await ada.button(re.compile("^Account")).click()
        await page.get_by_role("menuitem", name="Sign out").click()
        await expect(page).to_have_url(re.compile("/sign-in"))


async def test_where_clerks_script_is_kept_away_the_app_says_what_to_do(
    at_clerk: WebApp, clerk: Clerk, browser: Browser
) -> None:
    async def turned_away(path: str, title: str) -> None:
        async with visiting(at_clerk, browser) as ada:
            await ada.page.route(f"https://{clerk.host}/**", lambda route: route.abort())
            await ada.page.goto(path)
            await expect(ada.page.get_by_role("alert").get_by_text(title)).to_be_visible()
            await expect(ada.page.get_by_text("Check your connection, or whether something")).to_be_visible()
            await ada.page.unroute_all()
            await ada.button("Try again").click()
            await expect(ada.button("Sign in at Clerk")).to_be_visible()

    await asyncio.gather(
        turned_away("/", "The app cannot start"), turned_away("/sign-in", "Nobody can sign in")
    )
