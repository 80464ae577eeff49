"""The web shop that the recorded flows of `tests/flows` run on: late, re-rendered markup, and a ledger of what it was told."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

FLOWS = Path(__file__).parent / "flows"
SHOP, PAY = "https://shop.example", "https://pay.example"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
TEAS = {
    "assam": "Assam Second Flush",
    "darjeeling": "Darjeeling First Flush",
    "darjeeling-oolong": "Darjeeling Oolong",
    "sencha": "Sencha Uji",
}
CUSTOMERS = ("Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Ida")
REGIONS = {"FR": ["Bretagne", "Provence"], "IT": ["Lazio", "Toscana"]}
MAILS = [
    {"id": 1, "subject": "Your invoice"},
    {"id": 2, "subject": "Harvest news"},
    {"id": 3, "subject": "Hello"},
]
ORDERS_PER_PAGE, NOTES, NOTES_PER_PAGE = 4, 30, 10


def server_page(title: str, main: str) -> str:
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><main class=page_k2f>{main}</main>"


class FlowSite:
    """`url` is the shop and `other` another site, each on the same server; `told` is what they were told, by kind."""

    def __init__(self, port: int) -> None:
        self.url, self.other = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        self.told: defaultdict[str, list[Any]] = defaultdict(list)
        self.asks_for_consent = True

    def placed(self, text: str) -> str:
        """A text with the addresses of the recordings replaced by those of this server."""
        return text.replace(SHOP, self.url).replace(PAY, self.other)

    def app(self) -> Starlette:
        posts = {
            "session": self.sign_in,
            "checkout": self.check_out,
            "bookings": self.note("bookings"),
            "board": self.note("boards"),
            "tokens": self.make_token,
            "pay": self.pay,
            "sso": self.sso,
            "follow": self.note("follows"),
            "consent": self.consent,
            "archive": self.archive,
            "documents": self.take_document,
        }
        gets = {
            "suggest": self.suggest,
            "orders": self.orders,
            "regions": self.regions,
            "mails": self.mails,
            "archive": self.archived,
            "notes": self.notes,
            "consent": self.consent_given,
        }
        return Starlette(
            routes=[
                *(Route(f"/api/{name}", answer, methods=["POST"]) for name, answer in posts.items()),
                *(Route(f"/api/{name}", answer) for name, answer in gets.items()),
                Route("/account", self.account),
                Route("/teas/{id}", self.tea),
                Route("/orders/{id:int}", self.order),
                Route("/thanks", self.thanks),
                Route("/files/{name}", self.statement),
                Route("/{name:path}", self.page),
            ]
        )

    async def page(self, request: Request) -> Response:
        name = request.path_params["name"].rpartition("/")[2]
        name = "app" if request.path_params["name"].startswith("app") else name
        path = FLOWS / "pages" / (name if "." in name else f"{name}.html")
        if not path.is_file():
            raise HTTPException(404)
        return Response(self.placed(path.read_text(encoding="utf-8")), media_type=TYPES[path.suffix])

    def note(self, kind: str) -> Any:
        async def answer(request: Request) -> Response:
            self.told[kind].append(await request.json())
            return JSONResponse({})

        return answer

    # Accounts -------------------------------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        body = await request.json()
        right = body == {"email": "ada@shop.example", "password": "correct horse"}
        self.told["sign_ins"].append((body["email"], body["password"], right))
        await asyncio.sleep(0.15)
        if not right:
            return JSONResponse({"error": "That email and password do not match."}, 401)
        reply = JSONResponse({})
        reply.set_cookie("session", "ada", httponly=True)
        return reply

    async def account(self, request: Request) -> Response:
        if request.cookies.get("session") != "ada":
            return HTMLResponse(server_page("Sign in", "<h1>Please sign in</h1>"), 403)
        return HTMLResponse(
            server_page("Account · Northwind", '<h1>Hello, <span class="css-who">Ada</span></h1>')
        )

    async def sso(self, request: Request) -> Response:
        code = (await request.json())["code"]
        self.told["codes"].append(code)
        return JSONResponse({"name": code.removeprefix("code-")})

    async def consent_given(self, _: Request) -> Response:
        return JSONResponse({"given": not self.asks_for_consent})

    async def consent(self, request: Request) -> Response:
        self.told["consents"].append(await request.json())
        self.asks_for_consent = False
        return JSONResponse({})

    # Shop -----------------------------------------------------------------------------------------

    async def suggest(self, request: Request) -> Response:
        """Answers the later the shorter the question, so that replies overtake each other."""
        words = request.query_params["q"].lower()
        await asyncio.sleep(0.5 if len(words) < 5 else 0.2)
        return JSONResponse(
            [{"id": key, "name": name} for key, name in TEAS.items() if words in name.lower()]
        )

    async def tea(self, request: Request) -> Response:
        name = TEAS[request.path_params["id"]]
        self.told["teas"].append(name)
        return HTMLResponse(
            server_page(f"{name} · Northwind", f'<h1>{name}</h1><p class="css-price">€ 18,50</p>')
        )

    async def orders(self, request: Request) -> Response:
        page = int(request.query_params["page"])
        self.told["order_pages"].append(page)
        await asyncio.sleep(0.25)
        first = (page - 1) * ORDERS_PER_PAGE
        rows = [
            {"id": 1001 + index, "customer": CUSTOMERS[index], "total": f"€ 1.{index}00,50"}
            for index in range(first, min(first + ORDERS_PER_PAGE, len(CUSTOMERS)))
        ]
        return JSONResponse({"rows": rows, "pages": -(-len(CUSTOMERS) // ORDERS_PER_PAGE)})

    async def order(self, request: Request) -> Response:
        number = request.path_params["id"]
        self.told["orders"].append(number)
        main = f'<h1>Order {number}</h1><dl><dt>Carrier<dd class="css-carrier">Carrier {number % 3}</dl>'
        return HTMLResponse(server_page(f"Order {number} · Northwind", main))

    async def regions(self, request: Request) -> Response:
        await asyncio.sleep(0.3)
        return JSONResponse(REGIONS[request.query_params["country"]])

    async def check_out(self, request: Request) -> Response:
        self.told["checkouts"].append(await request.json())
        return JSONResponse({"id": 5005})

    async def make_token(self, request: Request) -> Response:
        body = await request.json()
        self.told["cards"].append((body["number"], body["code"]))
        return JSONResponse({"token": f"tok_{body['number'][-4:]}"})

    async def pay(self, request: Request) -> Response:
        self.told["payments"].append((await request.json())["token"])
        return JSONResponse({"id": 7007})

    async def thanks(self, request: Request) -> Response:
        number = request.query_params["order"]
        main = f'<h1>Thank you</h1><p>Order <b data-testid="order-number">{number}</b></p>'
        return HTMLResponse(server_page("Thank you · Northwind", main))

    # Mails, notes, documents ----------------------------------------------------------------------

    async def mails(self, _: Request) -> Response:
        await asyncio.sleep(0.1)
        return JSONResponse(MAILS)

    async def archive(self, request: Request) -> Response:
        self.told["archived"].append((await request.json())["id"])
        return JSONResponse({})

    async def archived(self, _: Request) -> Response:
        await asyncio.sleep(0.3)
        return JSONResponse([mail for mail in MAILS if mail["id"] in self.told["archived"]])

    async def notes(self, request: Request) -> Response:
        after = int(request.query_params["after"])
        self.told["note_pages"].append(after)
        await asyncio.sleep(0.2)
        notes = [
            {"id": number, "title": f"Note {number}", "score": 100 - number}
            for number in range(after + 1, min(after + NOTES_PER_PAGE, NOTES) + 1)
        ]
        return JSONResponse({"notes": notes, "last": after + NOTES_PER_PAGE >= NOTES})

    async def take_document(self, request: Request) -> Response:
        async with request.form() as form:
            file = form["file"]
            assert isinstance(file, UploadFile)
            content = await file.read()
            self.told["documents"].append((form["kind"], file.filename, content))
        await asyncio.sleep(0.2)
        return JSONResponse({"size": len(content)})

    async def statement(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.told["statements"].append(name)
        headers = {"Content-Disposition": f'attachment; filename="statement {name}"'}
        return Response("day,amount\n2027-01-02,48.00\n", media_type="text/csv", headers=headers)


@asynccontextmanager
async def serve() -> AsyncIterator[FlowSite]:
    """The shop, running on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = FlowSite(listener.getsockname()[1])
        config = uvicorn.Config(site.app(), lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield site
        finally:
            server.should_exit = True
            await serving
