"""Pages of the configuration, from the files below configs/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MAX_LINES = 70
"""Longer files hold texts rather than settings; their beginning is shown."""

HEAD = """# Configuration

Experiments and trainings are configured with [Hydra](https://hydra.cc): a file for each choice, in a folder for each
group. A setting is changed on the command line by its dotted name (`sampling.max_tokens=32`), a group by its name
(`engine=vllm`), and `--cfg job --resolve` shows the result without running anything.

| group | choices |
| --- | --- |
"""


def groups() -> dict[str, list[Path]]:
    """Name of each group, relative to configs/, and its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        found.setdefault(str(path.parent.relative_to(CONFIGS)), []).append(path)
    return found


def pages() -> dict[str, str]:
    """File name -> MyST text: an overview, and a page for each group."""
    named = {group: _page_name(group) for group in groups()}
    rows = [
        f"| [{_title(group)}]({named[group]}) | {', '.join(f'`{path.stem}`' for path in paths)} |"
        for group, paths in groups().items()
    ]
    toctree = ["```{toctree}", ":hidden:", "", *(name.removesuffix(".md") for name in named.values()), "```"]
    overview = HEAD + "\n".join([*rows, "", *toctree]) + "\n"
    return {
        "index.md": overview,
        **{named[group]: _group_page(group, paths) for group, paths in groups().items()},
    }


def _page_name(group: str) -> str:
    return "entry-points.md" if group == "." else f"{group.replace('/', '-')}.md"


def _title(group: str) -> str:
    return "entry points" if group == "." else group


def _group_page(group: str, paths: list[Path]) -> str:
    return (
        "\n".join([f"# {_title(group)}", "", *(line for path in paths for line in _file(group, path))]) + "\n"
    )


def _file(group: str, path: Path) -> Iterator[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = []
    while lines and lines[0].startswith("#"):
        line = lines.pop(0).removeprefix("#").strip()
        if not line.startswith("@package"):
            comment.append(line)
    yield f"## {path.stem if group == '.' else f'{group}={path.stem}'}"
    yield ""
    if comment:
        yield from [*map(_as_prose, comment), ""]
    if lines:
        yield from ["```yaml", *lines[:MAX_LINES], "```", ""]
    if len(lines) > MAX_LINES:
        yield from [
            f"The first {MAX_LINES} of {len(lines)} lines of `configs/{path.relative_to(CONFIGS)}`.",
            "",
        ]


def _as_prose(line: str) -> str:
    """A comment's line as a paragraph of its own where it is a command, so that Markdown does not join them."""
    escaped = line.replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_").replace("[", "\\[")
    return f"{escaped}\\" if "python " in line else escaped
