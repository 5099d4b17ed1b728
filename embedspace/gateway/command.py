"""The arguments of ``embedspace gateway``."""

from __future__ import annotations

import argparse
import os
import typing
from dataclasses import fields
from pathlib import Path

from embedspace.gateway.keys import KEYS_VARIABLE, read_keys
from embedspace.gateway.settings import Limits, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the gateway can be told on the command line; keys are none of it, since everybody can read that."""
    parser.add_argument(
        "--upstream", metavar="URL", required=True, help="the vLLM server; its key: $VLLM_API_KEY"
    )
    parser.add_argument(
        "--filter", metavar="PATH", required=True, help="saved filter, or the name of a shipped one"
    )
    parser.add_argument("--model", help="whose space the filter is for; default: what the server serves")
    parser.add_argument(
        "--host", default=Settings.host, help="address of this machine to listen at; default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=Settings.port, help="default: a free one")
    parser.add_argument(
        "--workers", type=int, default=Settings.workers, help="processes that screen; default: %(default)s"
    )
    parser.add_argument("--screen-text", action="store_true", help="screen text and token ids as well")
    parser.add_argument(
        "--keys", metavar="FILE", type=Path, help=f"callers' API keys, one a line; default: ${KEYS_VARIABLE}"
    )
    parser.add_argument("--audit", metavar="FILE", type=Path, help="JSON Lines of decisions, without content")
    parser.add_argument(
        "--allow", metavar="PATH", action="append", default=[], help="forward this address too, for GET"
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=Settings.wait,
        help="for a server that is not there yet",
    )
    parser.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        type=_limit,
        action="append",
        default=[],
        help="one of "
        + ", ".join(f"{each.name}={_plain(getattr(Limits, each.name))}" for each in fields(Limits)),
    )


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings that arguments and environment make.

    Raises:
        ValueError, OSError: as :class:`Settings` and :func:`read_keys`.
    """
    return Settings(
        upstream=options.upstream,
        filter=options.filter,
        model=options.model,
        host=options.host,
        port=options.port,
        workers=options.workers,
        screen_text=options.screen_text,
        keys=read_keys(options.keys, os.environ),
        upstream_key=os.environ.get("VLLM_API_KEY") or None,
        audit=options.audit,
        allow=tuple(options.allow),
        wait=options.wait,
        limits=Limits(**dict(options.limit)),
    )


def _plain(value: float) -> str:
    """As it can be given."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _limit(text: str) -> tuple[str, float]:
    """``rows=4096`` as a pair."""
    kinds = typing.get_type_hints(Limits)
    name, _, value = text.partition("=")
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; allowed are {', '.join(kinds)}")
    try:
        return name, kinds[name](value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: {value!r} is no {kinds[name].__name__}") from None
