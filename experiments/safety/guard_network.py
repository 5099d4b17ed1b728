"""A small published guard network, to compare the filter with or to add to it.

NanoGuard (O. Vucurevic, MIT licence, 16.8 million parameters) comes in the package ``metatronnanoguard``. Its weights
and its tokenizer are pickles; they are read as data, nothing of them is called, and the package is not imported.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import ZipFile

import torch
from torch.nn import functional as F

from experiments.safety.packages import package_folder

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

PACKAGE = "metatronnanoguard"
LENGTH = 512
"""Tokens that it reads; it was trained on texts padded to so many, and takes what is longer in pieces."""
ROTARY_BASE = 10_000


class Call(NamedTuple):
    """What a pickle would have called: here it is only written down."""

    name: Any
    arguments: Any


def guard_network(batch: int = 16) -> Callable[[Sequence[str]], list[float]]:
    """The network as a function from texts to probabilities of an attack; a long text gets its highest piece's.

    Use it with ``guard.with_classifier("network", guard_network(), window=512)``.

    Args:
        batch: pieces that are scored together.

    Raises:
        ValueError: the package is not installed.
    """
    weights, heads, encoding = loaded()
    begin, pad = (encoding.encode_single_token(f"<|reserved_{number}|>") for number in (0, 1))

    def classify(texts: Sequence[str]) -> list[float]:
        pieces, owner = [], []
        for number, text in enumerate(texts):
            ids = encoding.encode_ordinary(text)
            for start in range(0, max(1, len(ids)), LENGTH - 1):
                pieces.append([begin, *ids[start : start + LENGTH - 1]])
                owner.append(number)
        found = [0.0] * len(texts)
        for start in range(0, len(pieces), batch):
            group = pieces[start : start + batch]
            ids = torch.tensor([piece + [pad] * (LENGTH - len(piece)) for piece in group])
            lengths = torch.tensor([len(piece) for piece in group])
            values = attack_probabilities(weights, heads, ids, lengths).tolist()
            for place, value in enumerate(values, start):
                found[owner[place]] = max(found[owner[place]], value)
        return found

    return classify


@torch.inference_mode()
def attack_probabilities(
    weights: Mapping[str, Tensor],
    heads: int,
    ids: Int[Tensor, "texts tokens"],
    lengths: Int[Tensor, " texts"],
) -> Float[Tensor, " texts"]:
    """The forward pass of a bidirectional transformer: rotary positions, squared ReLU, normalised queries and keys.

    Args:
        weights: by their names in the package.
        heads: of attention.
        ids: padded; the padding takes part in attention, as it did in training.
        lengths: tokens of each text, over which the last states are averaged.
    """
    states = _normed(F.embedding(ids, weights["transformer.wte.weight"]))
    first = states
    texts, tokens, width = states.shape
    angles = torch.outer(
        torch.arange(tokens).float(),
        ROTARY_BASE ** -(torch.arange(0, width // heads, 2).float() / (width // heads)),
    )
    turn = angles.cos().bfloat16().float(), angles.sin().bfloat16().float()

    def heads_of(values: Tensor) -> Tensor:
        return values.view(texts, tokens, heads, -1).transpose(1, 2)

    for layer in range(len(weights["resid_lambdas"])):
        part = {
            name: weights[f"transformer.h.{layer}.{name}.weight"]
            for name in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        }
        states = weights["resid_lambdas"][layer] * states + weights["x0_lambdas"][layer] * first
        seen = _normed(states)
        queries, keys = (
            _normed(_rotated(heads_of(seen @ part[f"attn.{name}"].T), *turn)) for name in ("c_q", "c_k")
        )
        mixed = F.scaled_dot_product_attention(queries, keys, heads_of(seen @ part["attn.c_v"].T))
        states = states + mixed.transpose(1, 2).reshape(texts, tokens, width) @ part["attn.c_proj"].T
        states = states + (_normed(states) @ part["mlp.c_fc"].T).relu().square() @ part["mlp.c_proj"].T
    own = (torch.arange(tokens) < lengths[:, None]).float()[:, :, None]
    mean = (_normed(states) * own).sum(dim=1) / own.sum(dim=1)
    mean = F.layer_norm(mean, (width,), weights["cls_norm.weight"], weights["cls_norm.bias"])
    return F.linear(mean, weights["cls_head.weight"], weights["cls_head.bias"]).softmax(dim=-1)[:, 1]


def _normed(states: Tensor) -> Tensor:
    return F.rms_norm(states, (states.shape[-1],))


def _rotated(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = values.chunk(2, dim=-1)
    return torch.cat([left * cos + right * sin, right * cos - left * sin], dim=-1)


@cache
def loaded() -> tuple[dict[str, Tensor], int, Any]:
    """Weights, heads of attention, and the tokenizer."""
    import tiktoken

    folder = package_folder(PACKAGE) / "assets"
    with ZipFile(folder / "model.pt") as archive:
        root = archive.namelist()[0].split("/")[0]
        content = pickled_data(archive.read(f"{root}/data.pkl"))
        weights = {
            name: _tensor(archive, root, call).float() for name, call in content["model_state_dict"].items()
        }
    (made,) = pickled_data((folder / "tokenizer.pkl").read_bytes()).arguments
    encoding = tiktoken.Encoding(
        made["name"],
        pat_str=made["pat_str"],
        mergeable_ranks=made["mergeable_ranks"],
        special_tokens=made["special_tokens"],
    )
    return weights, content["config"]["n_head"], encoding


def _tensor(archive: ZipFile, root: str, call: Call) -> Tensor:
    """A contiguous tensor from the bytes that ``torch.save`` stored it in."""
    (_, kind, key, _, numel), offset, shape, *_ = call.arguments
    dtype = {"torch BFloat16Storage": torch.bfloat16, "torch FloatStorage": torch.float32}[kind]
    stored = torch.frombuffer(bytearray(archive.read(f"{root}/data/{key}")), dtype=dtype, count=numel)
    return stored[offset : offset + torch.Size(shape).numel()].view(shape)


def pickled_data(content: bytes) -> Any:
    """The plain values of a pickle; what it would import stays a name, what it would call a :class:`Call`.

    >>> import pickle
    >>> pickled_data(pickle.dumps({"a": [1, (2.0, b"x")], "b": print}))
    {'a': [1, (2.0, b'x')], 'b': 'builtins print'}

    Raises:
        ValueError: an instruction that plain data, tensors and objects with a state do not need.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def taken() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for operation, argument, _ in pickletools.genops(content):
        match operation.name:
            case (
                "PROTO" | "FRAME" | "BINPERSID"
            ):  # of the last one the value on the stack is what is asked for
                continue
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation.name])
            case (
                "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINBYTES" | "BINBYTES" | "BINFLOAT" | "GLOBAL"
                | "BININT" | "BININT1" | "BININT2" | "LONG1"
            ):  # fmt: skip
                stack.append(argument)
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(f"{module} {name}")
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(taken()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values = taken()
                stack[-1].extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                values = taken()
                stack[-1].update(zip(values[::2], values[1::2], strict=True))
            case "REDUCE" | "NEWOBJ":
                arguments, name = stack.pop(), stack.pop()
                stack.append({} if name == "collections OrderedDict" else Call(name, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1] = Call(stack[-1].name, (state,))
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"the pickle has the instruction {other}, which plain data does not need")
    raise ValueError("the pickle has no end")
