"""Report of the distillation experiment."""

from __future__ import annotations

from collections.abc import Sequence

from embedspace.metrics import Condition, Interval, standing
from embedspace.reporting import Cell, Figure, Table, counted, line_figure, lines_of
from experiments.distillation.metrics import BESIDE, DISTILLED, FACTS, FULL, NONE, Measured
from experiments.distillation.rows import SystemPrompt


def verdict(measured: Measured, tokens: int, questions: int) -> str:
    """How far the distilled rows go towards the whole prompt, in one plain sentence; empty where nothing is known."""
    place = (DISTILLED, float(tokens), float(questions))
    prompts = sorted({item // 1000 for item in measured.divergence.values.get(place, {})})
    share = measured.closed_mean(place, prompts)
    if share is None:
        return ""
    over, rows = counted(len(prompts), "system prompt"), f"{tokens} distilled rows"
    way = "from those under no system prompt to those under the whole one"
    match standing(share):
        case "too few":
            return (
                f"On {over}, {rows} bring the answers {share.estimate:.0%} of the way {way}: too few to say "
                "what they do after others."
            )
        case "not told":
            return f"On {over} it cannot be told whether {rows} bring the answers any part of the way {way}."
        case "below":
            return f"{rows} bring the answers no nearer to those under the whole system prompt ({over})."
    text = f"{rows} bring the answers {share.estimate:.0%} of the way {way} ({over})"
    best = _best_control(measured, tokens, prompts)
    more = None if best is None else measured.closed_more(place, best, prompts)
    if best is None or more is None:
        return f"{text}."
    told = {
        "above": f"more than the best control, {best[0]}",
        "below": f"less than the best control, {best[0]}",
    }.get(standing(more), f"which cannot be told from what the best control does, {best[0]}")
    return f"{text}, {told}."


def _best_control(measured: Measured, tokens: int, prompts: Sequence[int]) -> Condition | None:
    """The control of as many rows that closes most; None without any."""
    shares = {
        other: found.estimate
        for other in measured.conditions
        if other[0] not in (DISTILLED, BESIDE, FACTS, FULL, NONE)
        and other[1] == tokens
        and (found := measured.closed_mean(other, prompts)) is not None
    }
    return max(shares, key=shares.__getitem__, default=None)


def finding(measured: Measured, tokens: int, questions: int) -> str:
    """What the distilled rows close, and the best control."""
    place = (DISTILLED, float(tokens), float(questions))
    prompts = sorted({item // 1000 for item in measured.divergence.values.get(place, {})})
    share = measured.closed_mean(place, prompts)
    if share is None:
        return "Too few answers were recorded to compare rows."
    text = (
        f"{tokens} distilled rows close {share:.0%} of the divergence between no system prompt and the whole one "
        f"(mean over {counted(len(prompts), 'prompt')})"
    )
    best = _best_control(measured, tokens, prompts)
    control, more = (
        (None, None)
        if best is None
        else (measured.closed_mean(best, prompts), measured.closed_more(place, best, prompts))
    )
    if best is not None and control is not None and more is not None:
        text += (
            f"; the best control of as many rows, {best[0]}, closes {control:.0%}, by prompt {more:.0%} less"
        )
    right = [measured.mean(measured.right, where) for where in (place, (FULL, 0.0, 0.0), (NONE, 0.0, 0.0))]
    if all(right):
        own, whole, none = (value.estimate for value in right if value is not None)
        text += f". Of the strings that a right answer holds, {own:.0%} are there (whole {whole:.0%}, none {none:.0%})"
    return f"{text}{_facts(measured, place)}."


def _facts(measured: Measured, place: Condition) -> str:
    """What facts as text beside the rows change, over the prompts that have them."""
    beside = (BESIDE, *place[1:])
    those = {item // 1000 for item in measured.right.values.get(beside, {})}
    shares = [
        measured.mean(measured.right, where, those)
        for where in (place, beside, (FACTS, 0.0, 0.0), (FULL, 0.0, 0.0))
    ]
    if not those or not all(shares):
        return ""
    rows, kept, alone, whole = (share.estimate for share in shares if share is not None)
    return (
        f". With facts as text beside the rows ({counted(len(those), 'prompt')}), {kept:.0%} are there, with rows "
        f"alone {rows:.0%}, with the facts alone {alone:.0%}, with the whole prompt {whole:.0%}"
    )


def conditions_table(measured: Measured) -> Table:
    """Every condition."""
    rows: list[list[Cell]] = [
        [
            str(place[0]),
            int(place[1]) or "",
            int(place[2]) or "",
            measured.closed(place),
            *(
                measured.mean(getattr(measured, name), place)
                for name in ("divergence", "equal_tokens", "form", "right", "rows")
            ),
        ]
        for place in measured.conditions
    ]
    return Table(
        (
            "Condition",
            "Rows",
            "Learnt from",
            "Share closed",
            "Divergence, nats per token",
            "Equal greedy tokens",
            "Right form",
            "Right string",
            "Rows of the whole prompt",
        ),
        rows,
        "Every condition. Over the sealed questions of all system prompts; 95% intervals over prompts in "
        "small print.",
    ).filled()


def prompts_table(measured: Measured, prompts: Sequence[SystemPrompt], tokens: int, questions: int) -> Table:
    """Each system prompt at the main number of rows."""
    place = (DISTILLED, float(tokens), float(questions))
    places = [(FULL, 0.0, 0.0), place, (BESIDE, *place[1:]), (FACTS, 0.0, 0.0), (NONE, 0.0, 0.0)]
    rows: list[list[Cell]] = [
        [
            prompt["name"],
            prompt["kind"],
            share,
            *(measured.mean(measured.form, where, {number}) for where in (places[0], place, places[-1])),
            *(measured.mean(measured.right, where, {number}) for where in places),
        ]
        for number, prompt in enumerate(prompts)
        if (share := measured.closed(place, number)) is not None
    ]
    return Table(
        (
            "System prompt",
            "Kind",
            "Share closed",
            "Right form: whole",
            "rows",
            "none",
            "Right string: whole",
            "rows",
            "facts beside rows",
            "facts alone",
            "none",
        ),
        rows,
        f"{tokens} distilled rows, prompt by prompt.",
    )


def closed_figure(measured: Measured, questions: int) -> Figure | None:
    """Share closed by number of rows."""
    curves: dict[str, dict[float, Interval]] = {}
    for place in measured.conditions:
        share = measured.closed(place)
        if place[1] and share is not None and place[2] in (0.0, float(questions)):
            curves.setdefault(str(place[0]), {})[float(place[1])] = share
    lines = lines_of(curves, controls=[name for name in curves if name != DISTILLED])
    if not lines:
        return None
    return line_figure(
        lines,
        x_label="rows",
        y_label="share of the divergence closed",
        caption="Share of the divergence between no system prompt and the whole one that rows close, on sealed "
        "questions.",
        log_x=True,
    )


def questions_figure(measured: Measured, tokens: int) -> Figure | None:
    """Share closed by number of training questions."""
    curve = {
        float(place[2]): share
        for place in measured.conditions
        if place[0] == DISTILLED and place[1] == tokens and (share := measured.closed(place)) is not None
    }
    lines = lines_of({DISTILLED: curve})
    if not lines:
        return None
    return line_figure(
        lines,
        x_label="questions learnt from",
        y_label="share of the divergence closed",
        caption=f"The same by the number of training questions, {tokens} rows.",
    )
