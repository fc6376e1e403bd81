"""Contracts: what a tool's type hints promise, as one short text that changes when the promise does."""

from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["contract"]


def contract(version: str, *types: Any) -> str:
    """Return `version:hash` for types.

    The hash is over structure: names, types, what is required, constraints. Documentation, defaults and where a class
    is defined are not part of it, and neither is the Python that runs.
    """
    said = ";".join(_said(node, {}) for node in inspect.multi_type_info(types))
    return f"{version}:{blake2b(said.encode(), digest_size=6).hexdigest()}"


def _said(node: Any, seen: dict[Any, int]) -> str:
    """Return a type in words; a class that is met again inside itself is the number of its first meeting."""
    match node:
        case inspect.Metadata():
            return _said(node.type, seen)
        case inspect.UnionType():
            return "|".join(_said(one, seen) for one in sorted(node.types, key=_place))
        case inspect.EnumType():
            return f"{node.cls.__name__}{sorted(repr(member.value) for member in node.cls)}"
        case inspect.CustomType():
            return str(node.cls.__name__)
        case inspect.Field():
            return f"{node.encode_name}{'' if node.required else '?'}:{_said(node.type, seen)}"
        case _:
            return _parts(node, seen)


def _place(node: Any) -> tuple[str, str]:
    """Return an alternative's place among the others: no two of a union are of one kind and one tag."""
    while isinstance(node, inspect.Metadata):
        node = node.type
    return type(node).__name__, repr(getattr(node, "tag", None))


def _parts(node: Any, seen: dict[Any, int]) -> str:
    cls = getattr(node, "cls", None)
    if cls is not None and cls in seen:
        return f"#{seen[cls]}"
    if cls is not None:
        seen[cls] = len(seen)
    said = ((name, getattr(node, name)) for name in node.__struct_fields__ if name != "cls")
    parts = [f"{name}={_value(value, seen)}" for name, value in said if value is not None]
    return f"{type(node).__name__}({','.join(parts)})"


def _value(value: Any, seen: dict[Any, int]) -> str:
    if isinstance(value, msgspec.Struct):
        return _said(value, seen)
    if isinstance(value, list | tuple):
        return f"[{','.join(_value(one, seen) for one in value)}]"
    return repr(value)
