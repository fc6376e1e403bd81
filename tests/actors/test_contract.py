"""Contracts: what a tool's types promise, told in one hash that changes if and only if the promise does."""

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import msgspec
import pytest
from looking import said_under_two_hash_seeds
from msgspec import Meta, Raw, Struct, UnsetType, defstruct, field

from turnkeeper import Effect, tool
from turnkeeper.actors.contract import contract

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(Struct):
    n: int


class Tree(Struct):
    leaf: Leaf
    below: list["Tree"] = []
    beside: Optional["Tree"] = None


class Husband(Struct):
    wife: Optional["Wife"]


class Wife(Struct):
    husband: Husband | None


@dataclasses.dataclass
class Chain:
    next: Optional["Chain"] = None


class Nested(TypedDict):
    inner: NotRequired["Nested"]


class Pair(NamedTuple):
    one: int
    rest: Optional["Pair"] = None


class Box(Struct, Generic[T]):
    value: T


class Money:
    """A type that msgspec does not know: values of it come through hooks."""


class Small(enum.IntEnum):
    ONE = 1


class Cat(Struct, tag="cat"):
    leaf: Leaf


class Dog(Struct, tag="dog"):
    leaf: Leaf


Node = Union[  # noqa: UP007 - of a tuple
    tuple(defstruct(f"Kind{nth}", [("of", "list[Node]")], tag=True, module=__name__) for nth in range(20))
]
"""As a tree of syntax is: each kind of node may hold every other."""

OrderId = NewType("OrderId", str)


def hashed(*types: Any) -> str:
    return contract("", *types)


def made(**fields: Any) -> Any:
    """Return a struct type of these fields: a type, or a type with a default."""
    return defstruct("Made", [(name, *(of if isinstance(of, tuple) else (of,))) for name, of in fields.items()])


# ---------------------------------------------------------------- its form


def test_a_contract_is_a_version_and_a_hash() -> None:
    """The version stands in the open, so a tool can say which it accepts."""
    version, _, told = contract("2", int).partition(":")

    assert version == "2"
    assert len(bytes.fromhex(told)) == 6
    assert contract("", int) == f":{told}"


def test_a_contract_is_the_same_in_every_version_of_this_library() -> None:
    """It stands in stores, beside what was recorded under it."""

    assert hashed(int, str) == ":5b87d52cc8b4"


def test_a_contract_is_the_same_in_every_process() -> None:
    """Whatever order sets and dicts of strings have there."""
    program = """
import enum
from typing import Annotated, Literal, TypedDict
from msgspec import Meta, Struct
from turnkeeper.actors.contract import contract

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"

class Asked(TypedDict, total=False):
    colour: Colour
    size: Literal["small", "large", "huge"]

class Cat(Struct, tag="cat"):
    lives: Annotated[int, Meta(ge=0, le=9)]

class Dog(Struct, tag="dog"):
    of: "dict[str, Cat | Dog | None]"

print(contract("1", Asked, Cat | Dog, set[str] | int | None))
"""

    assert len(said_under_two_hash_seeds(program)) == 1


async def charge(order: str, cents: int = 0) -> bool:
    return bool(order and cents)


async def charge_in_other_words(order: str, cents: int = 100) -> bool:
    """Charge it."""
    return not (order and cents)


async def charge_loosely(order: str, cents: float = 0) -> bool:
    return bool(order and cents)


async def charge_and_tell(order: str, cents: int = 0) -> str:
    return order * cents


def test_a_tools_contract_is_over_its_parameters_and_its_result() -> None:
    """Not over its name, its body, its defaults or its documentation."""
    first, same, loose, telling = (
        tool(effect=Effect.PURE, version="1")(function).contract
        for function in (charge, charge_in_other_words, charge_loosely, charge_and_tell)
    )

    assert first == same
    assert len({first, loose, telling}) == 3
    assert tool(effect=Effect.EFFECTFUL, version="1", name="pay")(charge).contract == first
    assert tool(effect=Effect.PURE, version="2")(charge).contract == f"2:{first.partition(':')[2]}"


# ---------------------------------------------------------------- what does not change it


class Plain(Struct):
    cents: Annotated[int, Meta(ge=0)]
    note: str = ""
    tags: list[str] = field(default_factory=list)


class Described(Struct, frozen=True, kw_only=True, order=True):
    """The same, with words about it."""

    cents: Annotated[int, Meta(ge=0, title="cents", description="how much", examples=[1], extra={"unit": "EUR"})]
    note: Annotated[str, Meta(description="free text", extra_json_schema={"format": "text"})] = "none"
    tags: list[str] = field(default_factory=lambda: ["new"])


SAME = {
    "documentation, defaults and how a class behaves": (Plain, Described),
    "the name of a struct": (defstruct("One", [("n", int)]), defstruct("Other", [("n", int)])),
    "a name for a type": (str, OrderId),
    "the order of alternatives": (int | str | None, None | str | int),
    "the order of alternatives that share a type": (Cat | Dog, Dog | Cat),
    "the order of literals": (Literal["a", "b"], Literal["b", "a"]),
    "two ways to write an optional type": (Optional[int], int | None),  # noqa: UP045 - what is tested
    "what the wire does not tell apart": (Mapping[str, int], dict[str, int]),
    "a promise not to assign": (Final[int], int),
    "the order of an enum's members": (
        enum.Enum("Colour", {"RED": "red", "BLUE": "blue"}),
        enum.Enum("Colour", {"BLUE": "blue", "RED": "red"}),
    ),
    "the names of an enum's members": (
        enum.Enum("Colour", {"RED": "red"}),
        enum.Enum("Colour", {"CRIMSON": "red"}),
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_the_contract_does_not_change_with(what: str) -> None:
    """Records made under one of the two are understood under the other."""
    one, other = SAME[what]

    assert hashed(one) == hashed(other)
    assert hashed(list[one]) == hashed(list[other])


class Shop:
    """A place for a class to be defined in."""

    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    class Money:
        """As the other."""


@pytest.mark.parametrize(("here", "there"), [(Colour, Shop.Colour), (Money, Shop.Money)], ids=["enum", "custom"])
def test_the_contract_does_not_change_with_the_place_where_a_class_is_defined(here: type, there: type) -> None:
    """Moving a class into another one, or another module, changes no promise."""

    assert hashed(here) == hashed(there)


# ---------------------------------------------------------------- what changes it

CHANGES = {
    "a field renamed": (made(order=str), made(order_id=str)),
    "a field renamed on the wire": (
        defstruct("Made", [("order_id", str)]),
        defstruct("Made", [("order_id", str)], rename="camel"),
    ),
    "a field added": (made(order=str), made(order=str, cents=int)),
    "a field added with a default": (made(order=str), made(order=str, cents=(int, 0))),
    "a field removed": (made(order=str, cents=int), made(order=str)),
    "a field retyped": (made(cents=int), made(cents=float)),
    "a field retyped far inside": (made(of=list[dict[str, Leaf]]), made(of=list[dict[str, made(n=str)]])),
    "a field that may be left out": (made(cents=int), made(cents=(int, 0))),
    "a field that may be none": (made(cents=int), made(cents=int | None)),
    "a key of a dict that may be left out": (
        TypedDict("Asked", {"n": int}),
        TypedDict("Asked", {"n": NotRequired[int]}),
    ),
    "a constraint": (int, Annotated[int, Meta(ge=0)]),
    "a constraint's number": (Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)]),
    "a constraint's kind": (Annotated[int, Meta(ge=0)], Annotated[int, Meta(gt=0)]),
    "a pattern": (Annotated[str, Meta(pattern="^W")], Annotated[str, Meta(pattern="^V")]),
    "a length": (Annotated[list[int], Meta(max_length=3)], Annotated[list[int], Meta(max_length=4)]),
    "a time zone": (dt.datetime, Annotated[dt.datetime, Meta(tz=True)]),
    "an enum's member added": (
        enum.Enum("Colour", {"RED": "red"}),
        enum.Enum("Colour", {"RED": "red", "BLUE": "blue"}),
    ),
    "an enum's value": (enum.Enum("Colour", {"RED": "red"}), enum.Enum("Colour", {"RED": "rouge"})),
    "an enum's value of another type": (enum.Enum("Colour", {"RED": 1}), enum.Enum("Colour", {"RED": "1"})),
    "a literal added": (Literal["a"], Literal["a", "b"]),
    "a literal of another type": (Literal[1], Literal["1"]),
    "an alternative added": (int | str, int | str | None),
    "a tag": (defstruct("Made", [], tag="a"), defstruct("Made", [], tag="b")),
    "a tag's field": (defstruct("Made", [], tag="a"), defstruct("Made", [], tag="a", tag_field="kind")),
    "fields by place instead of by name": (
        defstruct("Made", [("n", int)]),
        defstruct("Made", [("n", int)], array_like=True),
    ),
    "unknown fields that are refused": (
        defstruct("Made", [("n", int)]),
        defstruct("Made", [("n", int)], forbid_unknown_fields=True),
    ),
    "what a list holds": (list[int], list[str]),
    "how many a tuple holds": (tuple[int, int], tuple[int, int, int]),
    "a tuple of any length": (tuple[int], tuple[int, ...]),
    "the keys of a dict": (dict[str, int], dict[int, int]),
    "the values of a dict": (dict[str, int], dict[str, str]),
    "what a generic type is of": (tuple[Box[int], Box[int]], tuple[Box[int], Box[str]]),
    "where a type leads back into itself": (
        made(a=Cat, b=Dog, c=Cat),
        made(a=Cat, b=Dog, c=Dog),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_contract_changes_with(what: str) -> None:
    """A record made under one of the two may not be understood under the other."""
    one, other = CHANGES[what]

    assert hashed(one) != hashed(other)
    assert hashed(made(of=dict[str, one])) != hashed(made(of=dict[str, other]))


def test_the_order_of_the_types_is_part_of_it() -> None:
    """What is taken is not what is returned."""

    assert hashed(int, str) != hashed(str, int)


# ---------------------------------------------------------------- every type there is


@pytest.mark.parametrize(
    "recursive", [Tree, Husband, Wife, Chain, Nested, Pair, Box[Tree], dict[str, Tree | None], Node]
)
def test_a_type_that_holds_itself_has_a_contract(recursive: Any) -> None:
    """The walk ends where it began, takes no path twice, and says the same each time."""

    assert hashed(recursive) == hashed(recursive)
    assert hashed(recursive) != hashed(list[recursive])


EVERY = [
    *(Any, None, bool, int, float, str, bytes, bytearray, memoryview, Raw, msgspec.msgpack.Ext),
    *(dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal),
    *(list, set, frozenset, tuple, dict, list[int], set[int], frozenset[int], tuple[int, ...], tuple[int, str]),
    *(dict[str, int], Collection[str], Sequence[str], MutableMapping[str, str], int | None, int | str | None),
    *(Annotated[int, Meta(multiple_of=5)], Annotated[str, Meta(min_length=1)], Literal["a", 1] | None, OrderId),
    *(Colour, Small, Leaf, Tree, Cat | Dog, Box, Box[int], Chain, Nested, Pair, Money, int | UnsetType),
]


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_every_kind_of_type_has_a_contract_of_its_own(kind: Any) -> None:
    """Whatever a tool may be declared with, or a type of its own that comes through hooks."""
    others = [other for other in EVERY if other is not kind]

    assert hashed(kind) == hashed(kind)
    assert [other for other in others if hashed(other) == hashed(kind)] == [
        other for other in others if {str(kind), str(other)} in EQUAL
    ]


EQUAL = [
    {str(one), str(other)}
    for one, other in (
        (str, OrderId),
        (list, list[Any]),
        (int, int | UnsetType),
        (list[str], Sequence[str]),
        (Collection[str], Sequence[str]),
        (dict[str, str], MutableMapping[str, str]),
    )
]
"""Kinds of types that records cannot tell apart."""
