"""Recordings as DevTools exports them, run on a shop that draws late and again: what they brought, and what it was told."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

import db
from models import File, Run, SecretKind
from runs import files, secrets, workflows
from schemas import SecretCreate
from tests import flow_site
from tests.flow_site import FLOWS, FlowSite
from tests.workers import ended, new_user, start

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

RECORDINGS = sorted(FLOWS.glob("*.json"))
PARAMETERS: dict[str, Any] = {"properties": {"letter": {"type": "string"}, "bill": {"type": "string"}}}


@pytest.fixture(scope="module")
async def shop_site() -> AsyncIterator[FlowSite]:
    async with flow_site.serve() as site:
        yield site


@pytest.fixture(scope="module")
async def user(database: str) -> str:
    """Who runs them all, so that one browser does."""
    return await new_user()


@pytest.fixture
async def shop(shop_site: FlowSite) -> FlowSite:
    """The shop, which has been told nothing yet."""
    shop_site.told.clear()
    shop_site.asks_for_consent = True
    return shop_site


async def play(user: str, shop: FlowSite, name: str, **more: Any) -> Run:
    """The run of a recording, which has to succeed."""
    recording = shop.placed((FLOWS / f"{name}.json").read_text(encoding="utf-8"))
    definition = workflows.import_recorder(recording) | {"timeout": 20_000}
    run = await ended(user, await start(user, [], definition=definition, **more), 60)
    assert run.error is None, run.error
    return run


def outputs(run: Run) -> dict[str, Any]:
    assert run.result is not None
    return dict(run.result["outputs"])


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recording_is_valid_and_comes_back_from_an_export_as_it_was(path: Any) -> None:
    recorded = workflows.import_recorder(path.read_bytes())
    assert workflows.problems(recorded, PARAMETERS) == []
    again = workflows.import_recorder(workflows.export_recorder(recorded))
    assert again == recorded


async def test_a_sign_in_is_refused_once_and_then_lets_in(user: str, worker: UUID, shop: FlowSite) -> None:
    secret = SecretCreate(
        name="northwind", kind=SecretKind.password, password="correct horse", origins=[shop.url]
    )
    async with db.as_user(user, "user") as tx:
        await secrets.create(tx, secret)
    run = await play(user, shop, "login")
    assert outputs(run) == {
        "refusal": {"said": "That email and password do not match."},
        "account": {"greeting": "Hello, Ada", "who": "Ada"},
    }
    assert shop.told["sign_ins"] == [
        ("ada@shop.example", "correct house", False),
        ("ada@shop.example", "correct horse", True),
    ]


async def test_a_suggestion_that_comes_late_is_chosen(user: str, worker: UUID, shop: FlowSite) -> None:
    run = await play(user, shop, "search")
    assert outputs(run) == {"tea": {"name": "Darjeeling First Flush", "price": 18.5}}
    assert shop.told["teas"] == ["Darjeeling First Flush"]


async def test_every_page_of_a_table_is_read_once(user: str, worker: UUID, shop: FlowSite) -> None:
    pages = outputs(await play(user, shop, "orders"))
    rows = [row for page in ("page_1", "page_2", "page_3") for row in pages[page]]
    assert rows == [
        {"id": 1001 + index, "customer": name, "total": 1000.5 + 100 * index, "url": f"{shop.url}/orders/{1001 + index}"}
        for index, name in enumerate(flow_site.CUSTOMERS)
    ]  # fmt: skip
    assert shop.told["order_pages"] == [1, 2, 3]


async def test_a_checkout_in_three_steps_orders_what_was_chosen(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    assert outputs(await play(user, shop, "checkout"))["order"] == {"number": 5005}
    assert shop.told["checkouts"] == [
        {"name": "Ada Lovelace", "country": "IT", "region": "Toscana", "shipping": "express"}
        | {"slot": "evening", "gift": "yes", "terms": "yes"}
    ]


async def test_a_day_two_months_ahead_is_picked_from_a_calendar_that_slides(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    await play(user, shop, "booking")
    assert shop.told["bookings"] == [{"day": "2027-03-16"}]


async def test_a_list_is_sorted_and_sliders_are_moved_by_keyboard(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    await play(user, shop, "board")
    assert shop.told["boards"] == [
        {"items": ["Bancha", "Ceylon", "Assam", "Darjeeling"], "heat": 86, "minutes": 7, "poured": []}
    ]


async def test_a_list_is_sorted_a_slider_moved_and_something_dropped_with_the_mouse(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    await play(user, shop, "drag")
    assert shop.told["boards"] == [
        {"items": ["Darjeeling", "Assam", "Bancha", "Ceylon"], "heat": 90, "minutes": 3, "poured": ["milk"]}
    ]


async def test_a_card_is_typed_into_the_frames_of_another_site(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    assert outputs(await play(user, shop, "payment")) == {"order": {"number": 7007}}
    assert shop.told["payments"] == ["tok_4242"]
    assert shop.told["cards"][-1] == ("4242 4242 4242 4242", "123")


async def test_an_application_that_redraws_itself_is_worked_through(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    assert outputs(await play(user, shop, "spa")) == {
        "archive": [{"subject": "Your invoice"}, {"subject": "Harvest news"}],
        "inbox": [{"subject": "Hello"}],
    }
    assert shop.told["archived"] == [2, 1]


async def test_a_window_that_closes_itself_signs_in(user: str, worker: UUID, shop: FlowSite) -> None:
    assert outputs(await play(user, shop, "popup")) == {"hello": {"text": "Signed in as grace"}}
    assert shop.told["codes"] == ["code-grace"]


async def test_scrolling_brings_the_rest_of_an_endless_page(user: str, worker: UUID, shop: FlowSite) -> None:
    notes = outputs(await play(user, shop, "feed"))["notes"]
    assert notes == [{"title": f"Note {number}", "score": 100 - number} for number in range(1, 31)]
    assert shop.told["note_pages"] == [0, 10, 20]


async def test_what_each_row_links_to_is_opened_and_collected(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    found = outputs(await play(user, shop, "details"))
    assert [row["order"] for row in found["details"]] == [
        {"title": f"Order {number}", "carrier": f"Carrier {number % 3}"}
        for number in (1001, 1002, 1003, 1004)
    ]
    assert shop.told["orders"] == [row["id"] for row in found["page_1"]]


async def test_a_banner_is_answered_where_there_is_one(user: str, worker: UUID, shop: FlowSite) -> None:
    asked = await play(user, shop, "banner")
    spared = await play(user, shop, "banner")
    assert shop.told["consents"] == [{"all": True}]
    assert len(shop.told["follows"]) == 2
    assert (asked.step_count, spared.step_count) == (6, 5)


async def test_files_are_sent_by_a_button_and_by_a_field(user: str, worker: UUID, shop: FlowSite) -> None:
    kept = {
        name: await files.save(user, kind="upload", name=f"{name}.pdf", data=data, limit=1000)
        for name, data in {"letter": b"%PDF-1.4 dear", "bill": b"%PDF-1.4 48.00"}.items()
    }
    params = {name: str(file.id) for name, file in kept.items()}
    sent = outputs(await play(user, shop, "upload", parameters=PARAMETERS, params=params))["sent"]
    assert shop.told["documents"] == [
        ("address", "letter.pdf", b"%PDF-1.4 dear"),
        ("address", "bill.pdf", b"%PDF-1.4 48.00"),
        ("invoice", "bill.pdf", b"%PDF-1.4 48.00"),
    ]
    assert sent[2] == {"file": "bill.pdf", "said": "14 bytes received"}


async def test_files_are_fetched_from_a_link_a_script_and_an_address(
    user: str, worker: UUID, shop: FlowSite
) -> None:
    fetched = outputs(await play(user, shop, "download"))
    assert {name: (file["name"], file["size"]) for name, file in fetched.items()} == {
        "statement": ("statement 2027-01.csv", 28),
        "report": ("Report 2026.csv", 24),
        "direct": ("statement 2026-12.csv", 28),
    }
    assert shop.told["statements"] == ["2027-01.csv", "2026-12.csv"]
    async with db.as_user(user) as tx:
        report = await tx.one(File, id=UUID(fetched["report"]["file_id"]))
    assert await files.read_part(report, 0, report.size) == b"year,total\n2026,1234.50\n"
