"""Random JSON texts and JMESPath expressions, made to meet: few keys, many types and spellings."""

import json
from collections.abc import Callable
from random import Random

KEYS = ("a", "b", "c", "d", "é", "x y")
_STRINGS = (
    '""', '"a"', '"b"', '"en"', '"\\u0065n"', '"caf\\u00e9"', '"café"', '"\\ud83d\\ude00"', '"😀"',
    '"\\/"', '"a\\"b\\\\"', '"12"', '"1e5"', '" 7 "', '"nan"', '"1_0"',
    '"\\uffff"', '"￾"', '"tab\\t"',
)  # fmt: skip
_NUMBERS = (
    "0", "-0", "1", "2", "-1", "10", "1.0", "0.0", "-0.0", "1e5", "1E+2", "1.50", "100000", "0.1",
    "18446744073709551616", "9223372036854775808", "123456789012345678901234567890", "1e-7",
    "1e400", "-1e400", "5e-324", "3.0e0",
)  # fmt: skip
_CONSTANTS = ("null", "true", "false")
_SPACES = ("", "", "", "", " ", "\n", "\t", "\r\n")


def json_text(random: Random, depth: int = 3) -> str:
    """Return a JSON value, spelled in one of many ways."""
    kind = random.randrange(8 if depth else 5)
    if kind < 2:
        return random.choice(_STRINGS)
    if kind < 4:
        return random.choice(_NUMBERS)
    if kind < 5:
        return random.choice(_CONSTANTS)
    if kind < 6:
        items = (json_text(random, depth - 1) for _ in range(random.randrange(4)))
        return _spaced(random, "[", items, "]")
    return record_text(random, depth - 1)


def record_text(random: Random, depth: int = 3) -> str:
    """Return a JSON object, now and then with a key twice, or a key in escapes."""

    def member() -> str:
        key = random.choice(KEYS)
        spelled = json.dumps(key) if random.random() < 0.3 else f'"{key}"'
        if key == "a" and random.random() < 0.1:
            spelled = '"\\u0061"'
        return (
            f"{spelled}{random.choice(_SPACES)}:{random.choice(_SPACES)}{json_text(random, depth)}"
        )

    return _spaced(random, "{", (member() for _ in range(random.randrange(6))), "}")


def _spaced(random: Random, left: str, items: "object", right: str) -> str:
    space = random.choice(_SPACES)
    inner = f"{space},{random.choice(_SPACES)}".join(items)  # type: ignore[arg-type]
    return f"{left}{space}{inner}{random.choice(_SPACES)}{right}"


_LITERALS = (
    "`null`", "`true`", "`false`", "`0`", "`1`", "`1.0`", "`100000`", '`""`', "`[]`", "`{}`",
    '`{"a": [1, null]}`', "'a'", "'en'", "'café'", "''", "'a\"b\\\\'", '`"\\uffff"`',
)  # fmt: skip
_FUNCTIONS: tuple[tuple[str, int], ...] = (
    ("length", 1), ("contains", 2), ("starts_with", 2), ("ends_with", 2), ("not_null", 2),
    ("type", 1), ("to_string", 1), ("to_number", 1), ("keys", 1), ("abs", 1), ("floor", 1),
    ("sum", 1), ("join", 2), ("values", 1), ("reverse", 1), ("sort", 1), ("max", 1), ("merge", 2),
)  # fmt: skip


def expression_text(random: Random, depth: int = 3) -> str:
    """Return a JMESPath expression over KEYS."""

    def sub() -> str:
        return expression_text(random, depth - 1)

    makers: tuple[Callable[[], str], ...] = (
        lambda: _key(random),
        lambda: _key(random),
        lambda: random.choice(_LITERALS),
        lambda: "@",
        lambda: f"{sub()}.{_key(random)}",
        lambda: f"{sub()}.{_key(random)}",
        lambda: f"{sub()}[{random.choice((0, 1, -1, 5))}]",
        lambda: f"{_key(random)}[*].{_step(random, depth)}",
        lambda: f"{sub()}[*]",
        lambda: f"{sub()}[]",
        lambda: f"{_key(random)}[].{_key(random)}[]",
        lambda: f"{sub()}[{random.choice(('1:', ':2', '::-1', '-2:', '::2', '0:1'))}]",
        lambda: f"{sub()}[?{sub()}]",
        lambda: f"{_key(random)}[?{_key(random)} == {sub()}].{_key(random)}",
        lambda: f"{sub()}.*",
        lambda: f"{_key(random)}.*.{_step(random, depth)}",
        lambda: f"[{sub()}, {sub()}]",
        lambda: f"{{{_key(random)}: {sub()}, {_key(random)}: {sub()}}}",
        lambda: f"{_key(random)}.{_step(random, depth)}",
        lambda: f"{sub()} | {sub()}",
        lambda: f"({sub()})",
        lambda: f"{sub()} && {sub()}",
        lambda: f"{sub()} || {sub()}",
        lambda: f"!{sub()}",
        lambda: f"{sub()} {random.choice(('==', '!=', '<', '<=', '>', '>='))} {sub()}",
        lambda: _call(random, depth),
        lambda: _call(random, depth),
    )
    return makers[random.randrange(len(makers) if depth else 4)]()


def _key(random: Random) -> str:
    key = random.choice(KEYS)
    return key if key.isascii() and key.isidentifier() else f'"{key}"'


def _step(random: Random, depth: int) -> str:
    kind = random.randrange(4) if depth else 0
    if kind == 1:
        return f"[{expression_text(random, depth - 1)}, {_key(random)}]"
    if kind == 2:
        return f"{{{_key(random)}: {expression_text(random, depth - 1)}}}"
    return _key(random)


def _call(random: Random, depth: int) -> str:
    name, arity = random.choice(_FUNCTIONS)
    return f"{name}({', '.join(expression_text(random, depth - 1) for _ in range(arity))})"
