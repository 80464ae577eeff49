"""Secrets for models, which name one and a field: filled in as a workflow's `change` step does it."""

import re
from collections.abc import Iterator
from typing import Any

from playwright.async_api import ElementHandle, Locator

from browser import inspection, selectors
from browser.actions import Action, ActionFailed, Evaluate, FormInput, Target, Type
from browser.chromium import Computer, NoSuchTab, Tab
from runs.placeholders import is_whole, paths
from runs.replay import LEFT, Attempt, Reveal, StepFailed
from runs.secrets import ALL_FIELDS
from runs.workflows import Flow

NAMED = re.compile(r"\{\{\s*secrets\b", re.IGNORECASE)
MISPLACED = (
    "A secret can only be filled into a field: give exactly {{ secrets.NAME.FIELD }} as the value of "
    f"form_input, or as the text of type with a target; FIELD is one of {', '.join(ALL_FIELDS)}"
)
LOOK_MS = 2_000
_FLOW = Flow("", None, (), {})


class Filling(Attempt):
    """Fills a secret into the field that a model has named."""

    def __init__(
        self, computer: Computer, action: FormInput | Type, target: Target, value: str, reveal: Reveal
    ) -> None:
        # The element is given; `selectors` is there because the step is nothing without any.
        step = {"type": "change", "selectors": ["*"], "value": value, "timeout": action.timeout_ms}
        super().__init__(computer, _FLOW, step, {}, _nothing_saved, reveal=reveal)
        self._action, self._target_of = action, target

    async def _look(self) -> None:
        async with self._bounded(self._seconds):
            try:
                if self._action.tab is not None:
                    await self._computer.switch_tab(self._action.tab)
            except NoSuchTab as error:
                raise StepFailed("no_such_tab", str(error)) from error
            tab = self._computer.active
            self._page, self._frame = tab.page, tab.page.main_frame
            self._listen("crash", self._on_crash)
            element = await self._until(lambda: self._element_of(tab))
            if (frame := await element.owner_frame()) is None:
                raise StepFailed("element_detached", LEFT)
            self._frame, self._found = frame, selectors.Found(element, 0, 0)

    async def _element_of(self, tab: Tab) -> ElementHandle | None:
        """The field, once it is there to be used."""
        self._late = StepFailed("not_found", f"Nothing on the page fits {self._target_of}")
        try:
            found = await self._target_of.element(tab)
        except ActionFailed:
            return None
        if isinstance(found, Locator):
            if not await found.count():
                return None
            found = await found.element_handle()
        if not (await found.is_visible() and await found.is_enabled()):
            self._late = StepFailed("element_not_ready", f"{self._target_of} cannot be used now")
            return None
        return found


def filling(computer: Computer, action: Action, reveal: Reveal) -> Filling | None:
    """How to do an action that fills in a secret; None for one that names none.

    Raises StepFailed for one that names a secret anywhere but as all of a field's value.
    """
    named = [text for text in _texts(action.model_dump()) if NAMED.search(text)]
    if not named:
        return None
    if isinstance(action, FormInput | Type) and action.target is not None:
        value = action.value if isinstance(action, FormInput) else action.text
        if named == [value] and isinstance(value, str) and _is_field(value):
            return Filling(computer, action, action.target, value, reveal)
    raise StepFailed("secret_misplaced", MISPLACED)


async def refuse_script(computer: Computer, action: Action) -> None:
    """Raise StepFailed for a script while a page of the computer holds a secret that it could read."""
    for page in computer.pages if isinstance(action, Evaluate) else ():
        if await inspection.holds_secret(page, LOOK_MS):
            raise StepFailed(
                "script_refused", "A secret stands in a field of a page; no script runs until it has left"
            )


def address(computer: Computer, action: Action) -> str:
    """Where the action would happen now."""
    tabs = [tab for tab in computer.tabs() if tab["id"] == action.tab]
    return computer.tab(tabs[0]["id"]).page.url if tabs else computer.page.url


def _is_field(value: str) -> bool:
    """Whether it is one placeholder, of a field that secrets have."""
    if not is_whole(value):
        return False
    (path,) = paths("value", value)
    return path[0] == "secrets" and len(path) == 3 and path[2] in ALL_FIELDS


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


async def _nothing_saved(_name: str, _content: bytes, _content_type: str) -> str:
    raise RuntimeError("filling in saves no file")
