"""Conversations in what a chat template renders: where their own text stands, what is left out, where they end."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from embedspace.space.conversation import (
    Conversation,
    Render,
    Span,
    other_fields,
    text_of,
    unused_markers,
)


def writes_order(render: Render, messages: Conversation, rendered: str) -> bool:
    """Whether the template writes the order of the fields of a message, as ``tojson`` does with tool calls."""
    if all(message.keys() <= {"role", "content"} for message in messages):
        return False
    ordered = json.loads(json.dumps([dict(message) for message in messages], sort_keys=True))
    return render(ordered) != rendered


def render_continued(render: Render, messages: Conversation) -> str:
    """The conversation up to the end of its last message's text, which the model is to go on with.

    A mark is put after the text and the rendering cut off at it. Where the template strips the text, white space at
    the end is left out, as in transformers.

    >>> render_continued(lambda turns: f"<answer>{turns[-1]['content'].strip()}</answer>",
    ...                  [{"role": "assistant", "content": "It is "}])
    '<answer>It is'

    Raises:
        ValueError: the template changes the text, or leaves it out.
    """
    final = text_of(messages[-1])
    [mark] = unused_markers("".join(map(text_of, messages)), 1, "\ue020")
    rendered = render([*messages[:-1], {**messages[-1], "content": f"{final}{mark} "}])
    end = rendered.rfind(mark)
    if end < 0 or final.strip() not in rendered:
        raise ValueError(
            f"continue_final_message=True, and the chat template changes or leaves out the text of the last message, "
            f"{final.strip()!r:.80}, so it cannot be known where the model is to go on; give other words"
        )
    kept = rendered[:end]
    return kept if rendered.startswith(" ", end + len(mark)) else kept.rstrip()


def require_continuable(messages: Conversation) -> None:
    """Raise ``ValueError`` unless the last message is one that the assistant can go on with."""
    last = messages[-1]
    if last.get("role") != "assistant":
        raise ValueError(
            f"continue_final_message=True needs a last message of the role 'assistant', whose text the model goes on "
            f"with; messages[{len(messages) - 1}] has the role {last.get('role')!r}. Add {{'role': 'assistant', "
            "'content': 'Sure, '}, or leave continue_final_message out"
        )
    content = last.get("content")
    parts = content if isinstance(content, list | tuple) else [content]
    if not any(isinstance(part, str) for part in parts):
        raise ValueError(
            "continue_final_message=True needs text to go on with, and the last message has "
            f"{'no content' if content is None else 'rows only'}; give text, or a list of text and rows"
        )


def render_with_spans(render: Render, messages: Conversation) -> tuple[str, list[Span]]:
    """The rendered conversation and where in it the messages' own text stands.

    The template is rendered twice: with the real messages, and with a marker in the place of each
    message's text. The second gives the template's own pieces; the first must consist of exactly those
    pieces with the messages' texts, stripped or not, between them. The texts are not searched for, so they may
    repeat each other or quote the template. Where that fails and a text has tags such as ``<think>``, which templates
    look for, it is rendered once more with a marker for each part between tags.

    >>> render_with_spans(lambda turns: "".join(f"<{m['role']}> {m['content']}" for m in turns),
    ...                   [{"role": "user", "content": "hello"}])
    ('<user> hello', [(7, 12)])

    Raises:
        ValueError: the template changes the messages' text in another way than stripping it, so that
            it cannot be known which part of the result is theirs; or it leaves out a message.
    """
    rendered = render(messages)
    spans = _find_messages(render, messages, rendered)
    if spans is not None:
        return rendered, spans
    raise ValueError(
        "the chat template rewrites the messages' text (more than stripping white space), so it cannot be "
        "known which rows are theirs. Give the text in the form in which the template leaves it, or build "
        "the prompt from space.tokenize and space.lookup with a content mask of your own"
    )


def require_every_message(render: Render, messages: Conversation, rendered: str) -> None:
    """Raise ``ValueError`` where a message that is not empty leaves no mark in the rendered conversation.

    >>> turns = [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}]
    >>> users_only = lambda turns: "".join(turn["content"] for turn in turns if turn["role"] == "user")
    >>> require_every_message(users_only, turns, "a")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: the chat template leaves out messages[1], of the role 'developer'; give its text in another role...
    """
    _find_messages(render, messages, rendered)


def _find_messages(render: Render, messages: Conversation, rendered: str) -> list[Span] | None:
    """Where the messages' text stands; None where the template rewrites it.

    Raises:
        ValueError: a message that is not empty leaves no mark.
    """
    marked: set[int] = set()
    spans = None
    for skeleton in _skeletons(render, messages, rendered):
        spans = skeleton.fit(rendered)
        if spans is not None:
            marked = set(skeleton.owners)
            break
        marked |= skeleton.owners
    _require_marks(render, messages, rendered, marked)
    return spans


def _require_marks(render: Render, messages: Conversation, rendered: str, marked: Collection[int]) -> None:
    for position, message in enumerate(messages):
        if text_of(message).strip():
            found = position in marked
        elif fields := other_fields(message):
            bare = {name: value for name, value in message.items() if name not in fields}
            found = _differs(render, [*messages[:position], bare, *messages[position + 1 :]], rendered)
        else:
            found = True
        if not found:
            raise ValueError(
                f"the chat template leaves out messages[{position}], of the role {message.get('role')!r}; give its "
                "text in another role (system, user or assistant), or leave the message out. A template that reads "
                "content as a list of parts cannot be used here"
            )


def _differs(render: Render, messages: Conversation, rendered: str) -> bool:
    try:
        return render(messages) != rendered
    except ValueError:  # the template asks for what was taken away
        return True


_TAG = re.compile(r"(</?[A-Za-z][\w.:-]*>|<\|[^<>|\s]+\|>|\[/?[A-Z_]+\])")
"""Parts of a text that a template may look for, and cut it at: ``<think>``, ``</think>``, ``[THINK]``."""


@dataclass(frozen=True)
class _Skeleton:
    """What a template writes around texts."""

    pieces: Sequence[str]
    texts: Sequence[str]
    """The messages' own texts between the pieces."""
    owners: frozenset[int]
    """The messages that they are of."""

    def fit(self, rendered: str) -> list[Span] | None:
        """Where the texts stand in the rendered conversation; None where it does not consist of these pieces."""
        return _fit(rendered, self.pieces, self.texts)


def _skeletons(render: Render, messages: Conversation, rendered: str) -> Iterator[_Skeleton]:
    """With one marker for each message, and then, where texts have tags, for each part between tags."""
    texts = [text_of(message) for message in messages]
    split = [[text] if text else [] for text in texts]
    yield _skeleton(render, messages, rendered, split)
    split = [_TAG.split(text) for text in texts]
    if any(len(parts) > 1 for parts in split):
        yield _skeleton(render, messages, rendered, split)


def _skeleton(
    render: Render, messages: Conversation, rendered: str, split: Sequence[Sequence[str]]
) -> _Skeleton:
    whole = len(max(split, key=len)) <= 1
    given = "".join(map(text_of, messages))
    markers = iter(unused_markers(rendered + given, sum(map(len, split))))
    units: dict[str, tuple[str, int]] = {}
    marked = []
    for position, (message, parts) in enumerate(zip(messages, split, strict=True)):
        written = []
        for part in parts:
            # White space beside tags stays where it is: templates strip it, and look for tags at the ends.
            own = part if whole else part.strip()
            if not own or (not whole and _TAG.fullmatch(own)):
                written.append(part)
                continue
            marker = next(markers)
            units[marker] = (own, position)
            written.append(part.replace(own, marker))
        content = "".join(written)
        if len(parts) > 1 and content != text_of(message):
            # A text that the template leaves whole is one stretch, its tags included.
            units.update((form, (text_of(message), position)) for form in _forms(content))
        marked.append({**message, "content": content} if text_of(message) else message)
    skeleton = render(marked)
    if not units:
        return _Skeleton([skeleton], [], frozenset())
    pattern = "|".join(map(re.escape, sorted(units, key=len, reverse=True)))
    found = [units[unit] for unit in re.findall(pattern, skeleton)]
    pieces = re.split(pattern, skeleton)
    return _Skeleton(pieces, [text for text, _ in found], frozenset(owner for _, owner in found))


def _fit(rendered: str, pieces: Sequence[str], texts: Sequence[str]) -> list[Span] | None:
    """Spans of ``texts`` such that ``rendered`` is the pieces with the texts between them."""
    if not rendered.startswith(pieces[0]):
        return None
    ends: dict[int, list[Span]] = {len(pieces[0]): []}
    for text, piece in zip(texts, pieces[1:], strict=True):
        reached: dict[int, list[Span]] = {}
        for start, spans in ends.items():
            for form in _forms(text):
                stop = start + len(form)
                if rendered.startswith(form, start) and rendered.startswith(piece, stop):
                    reached.setdefault(stop + len(piece), [*spans, (start, stop)])
        ends = reached
    return ends.get(len(rendered))


def _forms(text: str) -> Iterable[str]:
    """How templates strip a text."""
    forms = (
        text,
        text.strip(),
        text.rstrip(),
        text.lstrip(),
        text.strip("\n"),
        text.rstrip("\n"),
        text.lstrip("\n"),
    )
    return dict.fromkeys(forms)


def content_mask(text: str, spans: Sequence[Span], offsets: Sequence[Span]) -> list[bool]:
    """Which tokens carry the messages' own text.

    A token may cross the boundary between template and text. It counts as text if everything visible
    in it is the message's (``" hello"`` whose space is the template's); a token of white space only
    counts as text if all of it is (the ``"\\n\\n"`` that ends a header and begins a text is template).

    >>> content_mask("<user> hi!", spans=[(7, 10)], offsets=[(0, 6), (6, 9), (9, 10)])
    [False, True, True]

    Args:
        text: the rendered conversation.
        spans: where the messages' text stands in it.
        offsets: first and after-last character of each token.
    """
    own = bytearray(len(text))
    for start, stop in spans:
        own[start:stop] = b"\x01" * (stop - start)

    def is_content(start: int, stop: int) -> bool:
        visible = [own[i] for i in range(start, stop) if not text[i].isspace()]
        return all(visible) if visible else start < stop and all(own[start:stop])

    return [is_content(start, stop) for start, stop in offsets]
