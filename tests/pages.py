"""A small real web site on loopback for tests of the browser."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

Page = str | Callable[[asyncio.StreamWriter], Awaitable[None]]

FORM = """<title>Form</title><h1>Form</h1>
<button id=go onclick="log('click')" ondblclick="log('double')" oncontextmenu="log('menu');return false">Go</button>
<button class=twin>Twin</button><button class=twin>Twin</button><button id=off disabled>Off</button>
<button id=hidden style="display:none">Hidden</button>
<div style="position:relative;width:90px"><button id=under>Under</button>
<div style="position:absolute;inset:0;background:#eee"></div></div>
<input id=name aria-label=Name onkeydown="log('key:'+event.key)"><input id=tick type=checkbox aria-label=Tick>
<select id=city aria-label=City><option value=p>Paris<option value=r>Rome</select>
<input id=file type=file onchange="log('file:'+[...this.files].map(f=>f.name+f.size))">
<button id=ask onclick="file.click()">Choose</button><textarea id=area></textarea>
<a id=popup href=/second target=_blank>Second</a><a id=blob>Blob</a><div id=host></div>
<iframe srcdoc="<button onclick=&quot;parent.log('framed')&quot;>Framed</button>"></iframe>
<div id=pad style="width:200px;height:60px;background:#cde">pad</div><p style="margin-top:3000px" id=end>The end</p>
<script>
  window.events = []; function log(what) { events.push(what); }
  host.attachShadow({mode: 'open'}).innerHTML = '<button id=shady>Shady</button>';
  host.shadowRoot.querySelector('button').onclick = () => log('shady');
  blob.href = URL.createObjectURL(new Blob(['<title>Blob</title>'], {type: 'text/html'}));
  for (const type of ['mousedown', 'mouseup', 'mousemove', 'touchstart', 'wheel'])
    pad.addEventListener(type, e => log(type + ':' + (e.button ?? '') + ':' + (e.buttons ?? '')));
  go.onmouseenter = () => log('hover');
  window.secret = 42;
</script>"""

ANIMATED = """<title>Animated</title><body style="font:200px monospace"><b id=n>0</b><script>
  let n = 0; const until = performance.now() + (Number(location.search.slice(1)) || 1e9);
  (function step() {
    n.textContent = ++n; if (performance.now() < until) requestAnimationFrame(step); else document.body.style.background = '#000';
  })();
</script>""".replace("n.textContent = ++n", "document.getElementById('n').textContent = ++n")


async def never(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def stalled(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>Stalled</title><p>half")
    await writer.drain()
    await asyncio.sleep(3600)


def attachment(size: int | None) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """A download of so many bytes; of unknown size and without end when None."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        length = f"Content-Length: {size}\r\n" if size is not None else ""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n" + length.encode() +
            b'Content-Disposition: attachment; filename="../../re\\"port.bin"\r\n\r\n'
        )  # fmt: skip
        left = size
        while left is None or left > 0:
            block = min(left or 65536, 65536)
            writer.write(b"x" * block)
            await writer.drain()
            if left is None:
                await asyncio.sleep(0.001)
            else:
                left -= block

    return answer


PAGES: dict[str, Page] = {
    "/": FORM,
    "/second": "<title>Second</title><p>second",
    "/animated": ANIMATED,
    "/static": "<title>Static</title><body style='background:#0a0'>static",
    "/alerts": "<title>Alerts</title><button onclick=\"while (!window.stop_) alert('again')\">Loop</button>"
    "<script>window.answer = [confirm('sure?'), prompt('who?')]</script>",
    "/leave": "<title>Leave</title><button>b</button><script>onbeforeunload = e => { e.preventDefault() }</script>",
    "/hang": "<title>Hang</title><button onclick='for (;;);'>Hang</button>",
    "/store": "<title>Store</title><script>localStorage.kept ??= 'yes'; document.cookie ||= 'taste=sweet; max-age=999'</script>",
    "/floods": "<title>Floods</title><script>for (let i = 0; i < 60; i++) open('/second')</script>",
    "/login": "<title>Login</title><form action=/second><input name=user autocomplete=username>"
    "<input name=password type=password><input name=card autocomplete=cc-number><button>In</button></form>",
    "/mirror": """<title>Mirror</title><form action=/second><input id=pass name=pass type=password><input id=code name=code>
<input id=note name=note><input id=shown><button>Send</button></form><a id=file download>File</a><script>
  pass.onchange = () => alert('Is it ' + pass.value + '?');
  note.oninput = () => {
    document.title = 'About ' + note.value; history.replaceState(null, '', '#' + encodeURIComponent(note.value));
    shown.setAttribute('data-note', note.value); file.download = note.value + '.txt';
    file.href = 'data:text/plain,hello'; console.log(note.value);
  };
</script>""",
    "/framed": """<title>Framed</title><input id=own><script>
  const frame = document.createElement('iframe'); frame.src = location.origin.replace('127.0.0.1', 'localhost') + '/login';
  document.body.append(frame);
</script>""",
    "/csp": "<title>Csp</title><p>csp",
    "/never": never,
    "/stalled": stalled,
    "/small": attachment(1000),
    "/large": attachment(3_000_000),
    "/endless": attachment(None),
}


class Site:
    """The running site: `url(path)` on 127.0.0.1, `other(path)` the same site under another host name."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def other(self, path: str = "/") -> str:
        return f"http://localhost:{self.port}{path}"


@asynccontextmanager
async def serve(more: Mapping[str, Page] = MappingProxyType({})) -> AsyncIterator[Site]:
    """The site, with more pages."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(ConnectionError, IndexError, asyncio.CancelledError):
            path = (await reader.readline()).split()[1].decode()
            while (await reader.readline()).strip():
                pass
            site.asked.append(path)
            page = (PAGES | {**more}).get(path.split("?")[0])
            if callable(page):
                await page(writer)
            else:
                status = "200 OK" if page is not None else "404 Not Found"
                extra = "Content-Security-Policy: default-src 'self'\r\n" if path == "/csp" else ""
                head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n{extra}Connection: close\r\n\r\n"
                writer.write((head + (page or "<title>Nothing</title>nothing here")).encode())
                await writer.drain()
        connections.discard(task)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    site = Site(server.sockets[0].getsockname()[1])
    try:
        yield site
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
