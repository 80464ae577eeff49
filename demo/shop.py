"""A small shop on loopback: search, products, cart, a rating in a shadow root, a payment frame, checkout."""

import asyncio
import html
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

FLOW = Path(__file__).with_name("shop.json")
FILES = {name: Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("shop.css", "shop.js")}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "pattern": "^https?://", "description": "Where the shop is."},
        "search": {"type": "string", "default": "tea"},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 20, "default": 2},
        "name": {"type": "string", "default": "Ada Lovelace"},
        "shipping": {"enum": ["standard", "express"], "default": "express"},
    },
    "required": ["shop"],
}
SHIPPING = {"standard": ("Standard, 3 to 5 days", 490), "express": ("Express, tomorrow", 990)}
MAX_BODY, MAX_VISITS, REQUEST_SECONDS = 16_384, 1_000, 10.0


@dataclass(frozen=True, slots=True)
class Product:
    """Something for sale; `cents` is its price in euro cents."""

    name: str
    cents: int
    colour: str
    shape: str
    words: str


PRODUCTS = {
    "kyusu": Product(
        "Kyusu teapot", 6400, "#b4532a", "pot", "Red clay, a side handle, and room for two small cups."
    ),
    "sencha": Product(
        "Sencha green tea", 1450, "#5f8f4e", "tin", "First harvest from Uji, steamed and rolled, 100 g."
    ),
    "whisk": Product(
        "Bamboo whisk", 2200, "#c9a45c", "whisk", "Eighty tines cut from one piece, for matcha tea."
    ),
    "kettle": Product(
        "Swan-neck kettle", 8900, "#4a5568", "pot", "Brushed steel, 0.9 litres, with a thermometer."
    ),
    "mug": Product("Speckled mug", 1800, "#8b9bb4", "cup", "Stoneware with a thumb rest, thrown by hand."),
    "beans": Product(
        "House espresso", 1290, "#5b3a29", "tin", "Chocolate, hazelnut, very little fuss, 250 g."
    ),
}
SHAPES = {
    "pot": (
        '<path d="M25 48h50v26q0 12-25 12T25 74zM40 48q0-16 10-16t10 16"/>'
        '<path d="M75 54q16-2 16-16M25 56q-16 8-10 20l10-4"/>'
    ),
    "tin": '<rect x="30" y="32" width="40" height="54" rx="4"/><path d="M28 26h44v8H28zM38 52h24v18H38z"/>',
    "whisk": '<path d="M45 18h10v34H45zM45 52q-16 14-12 34h34q4-20-12-34M44 58l-4 28M50 56v30M56 58l4 28"/>',
    "cup": '<path d="M28 34h40v36q0 16-20 16T28 70zM68 42q18 0 18 14T68 68"/>',
}


@dataclass(slots=True)
class Visit:
    """One visitor's cart and orders."""

    cart: dict[str, int] = field(default_factory=dict)
    order: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    visit: Visit


# Server -------------------------------------------------------------------------------------------


class Shop:
    """Serves the shop while it is entered: `async with Shop() as shop: shop.url`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self._visits: dict[str, Visit] = {}
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=MAX_BODY)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (
            TimeoutError,
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ValueError,
        ):
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(min(int(headers.get("content-length", 0)), MAX_BODY))
        key, visit = self._visit(headers.get("cookie", ""))
        url = urlsplit(target)
        request = Request(method, url.path, _fields(url.query), _fields(body.decode()), visit)
        status, kind, content = _page(request)
        location = f"Location: {content}\r\n" if status == 303 else ""
        payload = b"" if status == 303 else content.encode()
        return (
            f"HTTP/1.1 {status} Shop\r\nContent-Type: {kind}; charset=utf-8\r\n"
            f"Content-Length: {len(payload)}\r\n"
            f"Set-Cookie: visit={key}; HttpOnly; SameSite=Lax; Path=/\r\nCache-Control: no-store\r\n"
            f"{location}Connection: close\r\n\r\n"
        ).encode() + payload

    def _visit(self, header: str) -> tuple[str, Visit]:
        try:
            cookie = SimpleCookie(header).get("visit")
        except CookieError:
            cookie = None
        key = cookie.value if cookie and cookie.value in self._visits else uuid4().hex
        if len(self._visits) > MAX_VISITS:
            self._visits.pop(next(iter(self._visits)))
        return key, self._visits.setdefault(key, Visit())


def _fields(text: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}


# Pages --------------------------------------------------------------------------------------------


def _page(request: Request) -> tuple[int, str, str]:
    """Status, content type and content; for 303 the content is the location."""
    path = request.path.strip("/").split("/")
    if request.method == "POST":
        location = _change(path, request.form, request.visit)
        return (303, "text/plain", location) if location else (404, "text/html", NOT_FOUND)
    if path[0] in FILES:
        return 200, "text/css" if path[0].endswith("css") else "text/javascript", FILES[path[0]]
    if path == ["favicon.ico"]:
        return 200, "image/svg+xml", _picture(PRODUCTS["kyusu"])
    page = _view(path, request.query, request.visit)
    return (200, "text/html", page) if page else (404, "text/html", NOT_FOUND)


def _view(path: list[str], query: dict[str, str], visit: Visit) -> str | None:
    match path:
        case [""]:
            return _home()
        case ["search"]:
            return _search(query.get("q", ""))
        case ["product", key] if key in PRODUCTS:
            return _product(key)
        case ["cart"]:
            return _cart(visit)
        case ["checkout"] if visit.cart:
            return _checkout()
        case ["payment"]:
            return PAYMENT
        case ["order"] if visit.order:
            return _order(visit)
    return None


def _change(path: list[str], form: dict[str, str], visit: Visit) -> str | None:
    match path:
        case ["cart"] if form.get("product") in PRODUCTS:
            quantity = form.get("quantity", "1")
            wanted = int(quantity) if quantity.isdecimal() and len(quantity) < 3 else 1
            visit.cart[form["product"]] = visit.cart.get(form["product"], 0) + wanted
            return "/cart"
        case ["order"] if visit.cart:
            visit.order = form
            return "/order"
    return None


def _frame(title: str, main: str) -> str:
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title} – Leaf &amp; Kiln</title>
<link rel="stylesheet" href="/shop.css"><script src="/shop.js" defer></script></head>
<body><header><a class="brand" href="/">Leaf &amp; Kiln</a>
<form class="search" action="/search" role="search"><input type="search" name="q" aria-label="Search the shop"
placeholder="Tea, cups, kettles …"></form><a class="to-cart" href="/cart">Cart</a></header><main>{main}</main>
<footer>A shop of a demonstration: nothing is sold, nothing is sent.</footer></body></html>"""


def _card(key: str, product: Product) -> str:
    return f"""<li class="card"><a href="/product/{key}">{_picture(product)}
<span class="name">{product.name}</span></a>
<span class="price">{_euros(product.cents)}</span></li>"""


def _home() -> str:
    cards = "".join(_card(key, product) for key, product in list(PRODUCTS.items())[:3])
    return _frame(
        "Welcome",
        f"""<section class="hero"><h1>Slow things, made well</h1>
<p>Pots, cups and leaves from six workshops.</p></section><h2>This week</h2><ul class="cards">{cards}</ul>""",
    )


def _search(wanted: str) -> str:
    found = {
        key: product
        for key, product in PRODUCTS.items()
        if wanted.lower() in f"{product.name} {product.words}".lower()
    }
    cards = "".join(_card(key, product) for key, product in found.items())
    quoted = html.escape(wanted)
    return _frame(
        f"Search: {quoted}",
        f"""<h1>{len(found)} for “{quoted}”</h1>
<ul class="cards results">{cards}</ul>""",
    )


def _product(key: str) -> str:
    product = PRODUCTS[key]
    return _frame(
        product.name,
        f"""<article class="product">{_picture(product)}<div><h1>{product.name}</h1>
<p class="price">{_euros(product.cents)}</p><p>{product.words}</p><shop-rating></shop-rating>
<form method="post" action="/cart"><input type="hidden" name="product" value="{key}">
<label>Quantity <input id="quantity" name="quantity" type="number" value="1" min="1" max="20"></label>
<button class="primary" data-testid="add-to-cart">Add to cart</button></form></div></article>""",
    )


def _cart(visit: Visit) -> str:
    rows = "".join(_row(key, quantity) for key, quantity in visit.cart.items())
    if not rows:
        return _frame("Cart", "<h1>Your cart</h1><p>Nothing in it yet.</p>")
    return _frame(
        "Cart",
        f"""<h1>Your cart</h1><table class="cart">{HEADINGS}<tbody>{rows}</tbody></table>
<p class="total">Total <strong>{_euros(_total(visit))}</strong></p>
<a class="primary" href="/checkout">Go to checkout</a>""",
    )


def _checkout() -> str:
    choices = "".join(f'<option value="{key}">{label}</option>' for key, (label, _) in SHIPPING.items())
    return _frame(
        "Checkout",
        f"""<h1>Checkout</h1><form class="checkout" method="post" action="/order">
<label>Full name <input id="name" name="name" autocomplete="off" required></label>
<label>Shipping <select id="shipping" name="shipping">{choices}</select></label>
<label class="check"><input id="gift" name="gift" type="checkbox"> Wrap it as a gift</label>
<fieldset><legend>Payment</legend><iframe title="Payment" src="/payment"></iframe>
<output id="paid">No card yet</output></fieldset>
<button id="place" class="primary" disabled>Place order</button></form>""",
    )


def _order(visit: Visit) -> str:
    label, cents = SHIPPING.get(visit.order.get("shipping", ""), SHIPPING["standard"])
    rows = "".join(_row(key, quantity) for key, quantity in visit.cart.items())
    gift = "<p>It will be wrapped as a gift.</p>" if "gift" in visit.order else ""
    return _frame(
        "Thank you",
        f"""<h1>Thank you, {html.escape(visit.order.get("name", ""))}</h1>
<p>Your order is on its way: {label}, {_euros(cents)}.</p>{gift}
<table class="order">{HEADINGS}<tbody>{rows}</tbody></table>
<p class="total">Total <strong id="total">{_euros(_total(visit) + cents)}</strong></p>""",
    )


def _row(key: str, quantity: int) -> str:
    product = PRODUCTS[key]
    return f"""<tr><td class="name"><a href="/product/{key}">{product.name}</a></td>
<td class="quantity">{quantity}</td>
<td class="price">{_euros(product.cents)}</td><td class="sum">{_euros(product.cents * quantity)}</td></tr>"""


def _total(visit: Visit) -> int:
    return sum(PRODUCTS[key].cents * quantity for key, quantity in visit.cart.items())


def _euros(cents: int) -> str:
    return f"€ {cents // 100}.{cents % 100:02}"


def _picture(product: Product) -> str:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 100 100"
aria-hidden="true" style="--colour:{product.colour}">
<g fill="{product.colour}" fill-opacity=".18" stroke="{product.colour}" stroke-width="3"
stroke-linejoin="round">{SHAPES[product.shape]}</g></svg>"""


HEADINGS = "<thead><tr><th>Product</th><th>Quantity</th><th>Price</th><th>Sum</th></tr></thead>"
PAYMENT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Payment</title>
<link rel="stylesheet" href="/shop.css"><body class="payment"><label>Card number
<input id="card" inputmode="numeric" placeholder="Any 16 digits" maxlength="19" autocomplete="off"></label>
<button type="button" id="confirm">Use this card</button><script src="/shop.js"></script></body></html>"""
NOT_FOUND = _frame("Not found", "<h1>Not found</h1><p>This shelf is empty.</p>")
