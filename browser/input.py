"""A computer's mouse, keyboard and touch, sent in order to the active tab through CDP's Input domain."""

import asyncio
from typing import Any, Literal

import structlog
from playwright.async_api import CDPSession
from playwright.async_api import Error as PlaywrightError

log = structlog.get_logger()

Button = Literal["left", "middle", "right"]
BUTTONS: dict[Button, int] = {"left": 1, "right": 2, "middle": 4}
ALT, CONTROL, META, SHIFT = 1, 2, 4, 8
MAX_UNANSWERED = 256

# Windows virtual-key codes: without one, Chromium ignores a key that prints nothing.
KEY_CODES = (
    {
        "Backspace": 8,
        "Tab": 9,
        "Enter": 13,
        "Shift": 16,
        "Control": 17,
        "Alt": 18,
        "Pause": 19,
        "CapsLock": 20,
    }
    | {"Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37}
    | {"ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Insert": 45, "Delete": 46, "Meta": 91}
    | {"ContextMenu": 93, "AltGraph": 225}
    | {f"F{number}": 111 + number for number in range(1, 25)}
    | {";": 186, "=": 187, ",": 188, "-": 189, ".": 190, "/": 191, "`": 192}
    | {"[": 219, "\\": 220, "]": 221, "'": 222}
)


def is_key(key: str) -> bool:
    """Whether it is the name of a key we can press, as in `KeyboardEvent.key` (W3C UI Events)."""
    return (len(key) == 1 and key.isprintable()) or key in KEY_CODES


class Input:
    """What is held and where the pointer is; each method returns a task that ends when the page answered."""

    def __init__(self) -> None:
        self._page: CDPSession | None = None
        self._unanswered: set[asyncio.Task[None]] = set()
        self._keys: dict[str, dict[str, Any]] = {}
        self._buttons: set[Button] = set()
        self._pointer = (0.0, 0.0)
        self._move: asyncio.Task[None] | None = None
        self._next_move: dict[str, Any] | None = None

    @property
    def held(self) -> bool:
        """Whether a key or a button is down."""
        return bool(self._keys or self._buttons)

    @property
    def stuck(self) -> bool:
        """Whether the page has left so much unanswered that it should get no more."""
        return len(self._unanswered) >= MAX_UNANSWERED

    def follow(self, page: CDPSession | None) -> None:
        """Send to this page from now on; what is held on the one before is let go."""
        if page is not self._page:
            self.release_all()
            self._page = page

    def move(self, x: float, y: float, modifiers: int = 0) -> asyncio.Task[None]:
        """Move the pointer; while a move is unanswered only the newest further one is kept."""
        self._pointer = (x, y)
        event = self._mouse("mouseMoved", "none", 0, modifiers)
        if self._move is None or self._move.done():
            self._move = self.send("Input.dispatchMouseEvent", event)
            self._move.add_done_callback(self._moved)
        else:
            self._next_move = event
        return self._move

    def press(
        self, x: float, y: float, button: Button, count: int = 1, modifiers: int = 0
    ) -> asyncio.Task[None]:
        """Press a button at a point; `count` is 2 for the second press of a double click."""
        self._flush()
        self._pointer = (x, y)
        self._buttons.add(button)
        return self.send("Input.dispatchMouseEvent", self._mouse("mousePressed", button, count, modifiers))

    def release(
        self, x: float, y: float, button: Button, count: int = 1, modifiers: int = 0
    ) -> asyncio.Task[None]:
        self._flush()
        self._pointer = (x, y)
        self._buttons.discard(button)
        return self.send("Input.dispatchMouseEvent", self._mouse("mouseReleased", button, count, modifiers))

    def wheel(self, x: float, y: float, dx: float, dy: float, modifiers: int = 0) -> asyncio.Task[None]:
        """Turn the wheel over a point, in CSS pixels; positive is right and down."""
        self._flush()
        self._pointer = (x, y)
        event = self._mouse("mouseWheel", "none", 0, modifiers)
        return self.send("Input.dispatchMouseEvent", {**event, "deltaX": dx, "deltaY": dy})

    def key_down(self, key: str, code: str = "", modifiers: int = 0) -> asyncio.Task[None]:
        """Press a key named as in `KeyboardEvent.key`; a printable one writes its text."""
        self._flush()
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        if modifiers & (ALT | CONTROL | META):
            text = ""
        letter = key.upper() if len(key) == 1 and key.isascii() and key.isalnum() else ""
        event = {
            "key": key,
            "code": code or (f"Digit{key}" if letter.isdigit() else f"Key{letter}" if letter else key),
            "windowsVirtualKeyCode": ord(letter) if letter else KEY_CODES.get(key, 0),
            "modifiers": modifiers,
        }
        repeated = event["code"] in self._keys
        self._keys[str(event["code"])] = event
        kind = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        return self.send("Input.dispatchKeyEvent", {**event, **kind, "autoRepeat": repeated})

    def key_up(self, key: str, code: str = "", modifiers: int = 0) -> asyncio.Task[None]:
        """Release a key, found by its code or else by its name."""
        self._flush()
        held = next((at for at, event in self._keys.items() if at == code or event["key"] == key), None)
        event = self._keys.pop(held) if held else {"key": key, "code": code, "windowsVirtualKeyCode": 0}
        return self.send("Input.dispatchKeyEvent", {**event, "type": "keyUp", "modifiers": modifiers})

    def text(self, text: str) -> asyncio.Task[None]:
        """Insert text as an input method or a paste does, without keys."""
        self._flush()
        return self.send("Input.insertText", {"text": text})

    def touch(self, kind: str, points: list[dict[str, float]]) -> asyncio.Task[None]:
        """Input.dispatchTouchEvent: touchStart and touchMove name all points, touchEnd what remains."""
        self._flush()
        return self.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def release_all(self) -> None:
        """Let go of every key and button that is held."""
        self._next_move = None
        for code, event in list(self._keys.items()):
            self.key_up(event["key"], code)
        for button in list(self._buttons):
            self.release(*self._pointer, button)

    def send(self, method: str, parameters: dict[str, Any]) -> asyncio.Task[None]:
        """Send a CDP command to the active tab; commands keep their order without being awaited."""
        task = asyncio.ensure_future(self._sent(self._page, method, parameters))
        self._unanswered.add(task)
        task.add_done_callback(self._unanswered.discard)
        return task

    def cancel(self) -> None:
        """Forget everything, for a computer that closes."""
        self._page = self._next_move = None
        self._keys.clear()
        self._buttons.clear()
        for task in list(self._unanswered):
            task.cancel()

    async def _sent(self, page: CDPSession | None, method: str, parameters: dict[str, Any]) -> None:
        if page is None:
            return
        try:
            await page.send(method, parameters)
        except (PlaywrightError, RuntimeError) as problem:
            # The tab went away under the pointer; its own event tells of it.
            log.debug("input_not_sent", method=method, error=str(problem))

    def _mouse(self, kind: str, button: str, count: int, modifiers: int) -> dict[str, Any]:
        x, y = self._pointer
        held = next(iter(self._buttons), "none") if kind == "mouseMoved" else button
        buttons = sum(BUTTONS[each] for each in self._buttons)
        where = {"type": kind, "x": x, "y": y, "modifiers": modifiers}
        return where | {"button": held, "buttons": buttons, "clickCount": count}

    def _moved(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._flush()

    def _flush(self) -> None:
        event, self._next_move = self._next_move, None
        if event is not None:
            self._move = self.send("Input.dispatchMouseEvent", event)
            self._move.add_done_callback(self._moved)
