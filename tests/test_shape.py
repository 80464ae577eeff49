"""The structure that keeps the code pleasant, held by tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from fastapi import params
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.responses import Response

import backend_websocket_server as module
from clerk_auth import Tx, get_current_caller
from runs.files import get_reader

ROOT = Path(__file__).parent.parent
SOURCE = (ROOT / "backend_websocket_server.py").read_text()
TREE = ast.parse(SOURCE)

# DESIGN's order: a file may import only what stands before it.
ORDER = (
    "settings", "logs", "metrics", "models", "schemas", "infra", "db", "identity", "api_keys", "jwks",
    "clerk_auth",
    "browser", "runs", "users", "export", "activity", "analytics", "webhooks", "upkeep", "process", "backup", "rekey", "live", "api", "contract",
    "backend_websocket_server", "worker", "serve",
)  # fmt: skip
PUBLIC = {
    "read_health", "read_readiness", "read_config", "read_metrics", "register", "login", "refresh", "read_jwks",
    "read_discovery", "receive_clerk_event", "forgot_password", "reset_password", "verify_email",
}  # fmt: skip
SYSTEM_USERS = {
    "db.py", "identity.py", "runs/approvals.py", "runs/computers.py", "runs/engine.py", "runs/schedules.py", "users.py",
    "analytics.py", "upkeep.py", "webhooks/clerk.py", "webhooks/deliveries.py",
}  # fmt: skip


def routes() -> list[APIRoute]:
    return [route for route in module.app.routes if isinstance(route, APIRoute) and route.include_in_schema]


def handlers() -> Iterator[ast.AsyncFunctionDef]:
    for node in TREE.body:
        if isinstance(node, ast.AsyncFunctionDef) and node.decorator_list:
            yield node


def python_files() -> list[Path]:
    folders = ("infra", "browser", "runs", "live", "webhooks", "contract", "demo")
    return sorted([*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).glob("*.py"))])


def test_the_table_of_contents_names_the_banners_in_order() -> None:
    banners = re.findall(r"^# (\w[\w ]*?) -{10,}$", SOURCE, re.MULTILINE)
    lines = (ast.get_docstring(TREE) or "").split("\n\n")[1]
    contents = " ".join(lines.split()).split(" · ")
    assert contents == banners


def test_every_route_is_short_and_leaves_the_work_to_its_module() -> None:
    for node in handlers():
        first = min(decorator.lineno for decorator in node.decorator_list)
        length = (node.end_lineno or 0) - first + 1
        body = [part for part in node.body if not isinstance(part, ast.Expr | ast.Assert) or _is_await(part)]
        assert length <= 14, (node.name, length)
        assert 1 <= len(body) <= 3, (node.name, len(body))
        source = ast.unparse(node)
        for word in ("user_id", "commit", "try:", "404", "print(", "import "):
            assert word not in source.replace("caller.user_id", ""), (node.name, word)


def _is_await(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)


def test_a_route_costs_at_most_fourteen_lines_on_average() -> None:
    assert len(SOURCE.splitlines()) / len(routes()) <= 14


def test_names_are_unique_and_equal_the_operation_ids() -> None:
    names = [route.name for route in routes()]
    assert len(names) == len(set(names))
    operations = [
        operation["operationId"]
        for path in module.app.openapi()["paths"].values()
        for operation in path.values()
    ]
    assert sorted(operations) == sorted(names)


def test_every_route_knows_its_caller_or_is_listed_as_public() -> None:
    called = {route.name: set(_calls(route.dependant)) for route in routes()}
    linked = {name for name, calls in called.items() if get_reader in calls}
    assert linked == {"read_file_content"}
    assert {name for name, calls in called.items() if get_current_caller not in calls} == PUBLIC | linked


def test_no_route_that_only_reads_holds_a_transaction_while_it_answers() -> None:
    [opens] = (part.dependency for part in get_args(Tx) if isinstance(part, params.Depends))
    held = {route.name for route in routes() if opens in set(_calls(route.dependant))}
    assert "create_run" in held
    reading = {route.name for route in routes() if "GET" in (route.methods or ())}
    assert held & reading == {"read_preferences"}  # whose one statement is its answer


def _calls(dependant: object) -> Iterator[object]:
    for dependency in getattr(dependant, "dependencies", []):
        yield dependency.call
        yield from _calls(dependency)


def test_every_route_says_what_it_answers_and_what_it_does() -> None:
    for route in routes():
        answers_bytes = isinstance(route.response_class, type) and issubclass(route.response_class, Response)
        assert route.response_model is not None or answers_bytes, route.name


def test_there_is_one_socket() -> None:
    assert [route.path for route in module.app.routes if isinstance(route, APIWebSocketRoute)] == ["/ws"]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    place = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if place == "demo":
        return
    allowed = set(ORDER[: ORDER.index(place) + 1])
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            if top in ORDER:
                assert top in allowed, f"{place} imports {name}"


def test_only_the_database_module_builds_statements() -> None:
    for path in python_files():
        source = path.read_text()
        if path.name not in ("db.py", "models.py"):
            assert not re.search(r"(?<![\w.])(select|text|insert|delete)\(", _code(source)), path


def _code(source: str) -> str:
    """The calls of plain names, without strings and comments."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return " ".join(f"{call.id}(" for call in calls if isinstance(call, ast.Name))


def test_only_these_modules_act_for_the_system() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in python_files()
        if re.search(r"\bas_system\(", path.read_text())
    }
    assert users <= SYSTEM_USERS


def test_nothing_is_put_off_in_a_comment() -> None:
    banned = re.compile(r"\b(TODO|FIXME)\b", re.IGNORECASE)
    for path in [*python_files(), *ROOT.glob("*.md"), *ROOT.glob("docs/*"), *ROOT.glob("tests/*.py")]:
        if path.is_file() and path.name != "test_shape.py":
            assert not banned.search(path.read_text(errors="replace")), path
