"""What a chat template reads beside the messages: variables that a caller gives, and the time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import FunctionType, MethodType
from typing import Any

from embedspace._util.forks import lock_across_forks
from embedspace.prompt import Recipe

CLOCK = "strftime_now"
"""The function by which a template reads the time."""
RESERVED = {
    "messages": "the conversation is the first argument",
    "add_generation_prompt": "it is an argument of its own",
    "continue_final_message": "it is an argument of its own",
    "raise_exception": "the template refuses conversations by it",
}
"""Names that cannot be given as a variable, and why."""

_fixed_times: list[datetime] = []
_process_time: list[datetime] = []
_lock = lock_across_forks()


@contextmanager
def fixed_template_time(time: datetime) -> Iterator[None]:
    """Let every chat template that reads the clock in this process read this time instead.

    >>> with fixed_template_time(datetime(2026, 7, 12)):
    ...     TemplateClock()("%d %b %Y")
    '12 Jul 2026'
    """
    entry = time.replace()  # an object of its own: runs that are open at once may have one time
    with _lock:
        _fixed_times.append(entry)
    try:
        yield
    finally:
        with _lock:
            _fixed_times[:] = [other for other in _fixed_times if other is not entry]


def template_time() -> datetime:
    """The time that chat templates read: that of the open run, otherwise of the first reading in this process."""
    with _lock:
        if _fixed_times:
            return _fixed_times[-1]
        if not _process_time:
            _process_time.append(datetime.now())
        return _process_time[0]


class TemplateClock:
    """``strftime_now`` of one rendering; it notes what was read.

    >>> clock = TemplateClock("2026-07-12")
    >>> clock("%d %b %Y"), clock.read
    ('12 Jul 2026', {'%d %b %Y': '12 Jul 2026'})
    >>> TemplateClock(clock.read)("%d %b %Y")  # as a recipe records it
    '12 Jul 2026'

    Args:
        given: a date or time in ISO 8601, or the texts that were read before, by format; None for the present time.

    Raises:
        TypeError: something else is given.
        ValueError: text that is no time.
    """

    def __init__(self, given: object = None) -> None:
        allowed = (
            f"template[{CLOCK!r}] must be a date or time such as '2026-07-12' or '2026-07-12T13:05:00', or what a "
            f"recipe recorded, such as {{'%d %b %Y': '12 Jul 2026'}}; got {given!r:.80}"
        )
        self.read: dict[str, str] = {}
        """Format -> the text that the template got."""
        self._recorded: dict[str, str] | None = None
        self._time: datetime | None = None
        if isinstance(given, Mapping):
            self._recorded = {str(form): str(text) for form, text in given.items()}
        elif isinstance(given, str):
            try:
                self._time = datetime.fromisoformat(given)
            except ValueError as error:
                raise ValueError(allowed) from error
        elif given is not None:
            raise TypeError(allowed)

    def __call__(self, form: str) -> str:
        """The time in a format of ``strftime``.

        Raises:
            ValueError: the recorded texts have none in this format.
        """
        if self._recorded is None:
            text = (self._time or template_time()).strftime(form)
        elif form in self._recorded:
            text = self._recorded[form]
        else:
            raise ValueError(
                f"the chat template reads the time as {form!r}, and template[{CLOCK!r}] has "
                f"{', '.join(map(repr, self._recorded)) or 'nothing'}; give a date such as '2026-07-12'"
            )
        self.read[form] = text
        return text


@dataclass(frozen=True, eq=False)
class TemplateValues:
    """Checked variables of one rendering, and its clock."""

    variables: Mapping[str, Any]
    """Plain values; tools are JSON schemas."""
    clock: TemplateClock

    @classmethod
    def of(cls, template: str, *given: Mapping[str, object] | None) -> TemplateValues:
        """The variables that a caller gives to a template.

        >>> TemplateValues.of("{{ thinking }}", {"thinking": False}).recorded
        {'thinking': False}

        Args:
            template: Jinja text.
            given: values by name; later ones go before earlier ones.

        Raises:
            TypeError: not a mapping of names, or a value that JSON cannot hold.
            ValueError: a name that is taken, or that the template does not read.
        """
        merged: dict[str, object] = {}
        for some in given:
            if not isinstance(some, Mapping | None):
                raise TypeError(
                    f"template must be a mapping of the template's variables, got a {type(some).__name__}"
                )
            merged.update(some or {})
        values: dict[str, Any] = {}
        for name, value in merged.items():
            _check_name(template, name)
            if name == CLOCK or not (name in ("tools", "documents") and value is None):
                values[name] = _plain(value, f"template[{name!r}]")
        for name in ("tools", "documents"):
            _check_mappings(values.get(name, []), name)
        clock = TemplateClock(values.pop(CLOCK, None))
        return cls(dict(sorted(values.items())), clock)

    @property
    def recorded(self) -> dict[str, Any]:
        """What a recipe keeps after the rendering: the variables, and the time where the template read it."""
        return {
            **self.variables,
            **({CLOCK: dict(sorted(self.clock.read.items()))} if self.clock.read else {}),
        }


def recorded_template(recorded: Mapping[str, Any]) -> str:
    """The variables as a recipe's parameter; the order inside of values is kept, since templates write it."""
    return json.dumps(dict(sorted(recorded.items())), ensure_ascii=False)


def recorded_times(recipe: Recipe) -> dict[str, str]:
    """What chat templates read from the clock when a prompt was made, by format.

    >>> template = recorded_template({"strftime_now": {"%Y": "2026"}})
    >>> recorded_times(Recipe.of("first_rows", {"rows": 3}, Recipe.of("embed_chat", {"template": template})))
    {'%Y': '2026'}
    """
    found: dict[str, str] = {}
    for source in recipe.inputs:
        found.update(recorded_times(source))
    return {**found, **_recorded(recipe).get(CLOCK, {})}


def without_times(recipe: Recipe) -> Recipe:
    """The recipe with nothing that was read from the clock, as earlier versions wrote it.

    >>> template = recorded_template({"strftime_now": {"%Y": "2026"}})
    >>> without_times(Recipe.of("embed_chat", {"template": template})) == Recipe.of("embed_chat", {})
    True
    """
    parameters = dict(recipe.parameters)
    recorded = _recorded(recipe)
    if CLOCK in recorded:
        del parameters["template"], recorded[CLOCK]
        if recorded:
            parameters["template"] = recorded_template(recorded)
    return Recipe.of(recipe.operation, parameters, *map(without_times, recipe.inputs))


def _recorded(recipe: Recipe) -> dict[str, Any]:
    template = dict(recipe.parameters).get("template")
    values: Any = json.loads(str(template)) if recipe.operation == "embed_chat" and template else {}
    return dict(values)


def _check_name(template: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"template must name variables by strings, got {name!r}")
    if name in RESERVED:
        raise ValueError(f"template cannot set {name!r}: {RESERVED[name]}")
    from embedspace.space.jinja_template import variables_read

    read = variables_read(template)
    if name not in read:
        known = ", ".join(sorted(read - RESERVED.keys())) or "none"
        raise ValueError(
            f"the chat template does not read the variable {name!r}, so it would have no effect; it reads: {known}"
        )


def _check_mappings(values: Any, name: str) -> None:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        what = "JSON schemas or functions" if name == "tools" else "mappings with 'title' and 'text'"
        raise TypeError(f"template[{name!r}] must be a list of {what}, got {values!r:.80}")


def _plain(value: object, place: str) -> Any:
    """A value as JSON holds it; functions become their JSON schemas, as in transformers."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}; keys must be strings")
        return {key: _plain(inner, f"{place}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(inner, f"{place}[{position}]") for position, inner in enumerate(value)]
    if isinstance(value, FunctionType | MethodType):
        from transformers.utils.chat_template_utils import get_json_schema

        return _plain(get_json_schema(value), place)
    raise TypeError(
        f"{place} must be text, a number, a boolean, None, or lists and mappings of those, got a "
        f"{type(value).__name__}; recipes keep it as JSON"
    )
