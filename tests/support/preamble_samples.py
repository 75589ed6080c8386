"""Every family of preamble that docs/preamble.md declares, with what closes it, and documents."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from hypothesis import strategies as st

from support.json_samples import record_text

_NAME = st.sampled_from(
    (
        "x",
        "$",
        "_cb1",
        "window.YTD.tweet.part0",
        "Grailbird.data.tweets_2026_11",
        "cb[0]",
        'w["a b"]',
    )
)


class Around(NamedTuple):
    """A preamble, what closes it, and the name of its family."""

    family: str
    before: str
    after: str = ""


def _junk(kind: str, text: str, end: str) -> Around:
    match kind:
        case "block comment":
            return Around(kind, f"/*{text.replace('*/', '')}*/")
        case "HTML comment":
            # A dash before the end, or an end made by leaving one out, would end it early.
            return Around(kind, f"<!--{text.replace('-', '')}-->")
        case "//" | "#" | ";" | "--" | "%":
            line = text.replace("\r", "").replace("\n", "")
            return Around(kind, f"{kind}{line}{end}")
        case _:
            return Around(kind, kind)


def _assignment(var: str, name: str, space: str, end: str) -> Around:
    return Around("assignment", f"{var}{name}{space}={space}", end)


def _call(name: str, space: str, end: str) -> Around:
    return Around("call", f"{name}{space}(", end)


_KINDS = (
    *("//", "#", ";", "--", "%", "block comment", "HTML comment"),
    *(" ", "\t", "\n", "\r\n", "\x1e", "\ufeff"),
    *(")]}'", ")]}',\n", "while(1);", "while (1);", "for(;;);", "for (;;);", "{}&&"),
    *("throw 1; <don't be evil>", "])}while(1);</x>", ")]}\n", "while(true);", "%%%BREAK%%%"),
)
JUNK = st.builds(
    _junk,
    st.sampled_from(_KINDS),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.sampled_from(("\n", "\r\n", "\r")),
)
OPENERS = st.one_of(
    st.builds(
        _assignment,
        st.sampled_from(("", "var ", "let ", "const ")),
        _NAME,
        st.sampled_from(("", " ", "\n")),
        st.sampled_from(("", ";", " ;\n")),
    ),
    st.builds(_call, _NAME, st.sampled_from(("", " ")), st.sampled_from((")", ");", " ) ;\n"))),
    st.just(Around("START", "&&&START&&&", "&&&END&&&")),
    st.just(Around("secure", "/*-secure-\n", "*/")),
)


@st.composite
def arounds(draw: st.DrawFn) -> Around:
    """Draw junk and openers one after another, and the closers in the reverse order."""
    parts = draw(st.lists(st.one_of(JUNK, OPENERS), max_size=5))
    return Around(
        " ".join(part.family for part in parts),
        "".join(part.before for part in parts),
        "".join(part.after for part in reversed(parts)),
    )


class Sample(NamedTuple):
    """A document's text and the texts of its records."""

    text: str
    records: Sequence[str]


@st.composite
def documents(draw: st.DrawFn) -> Sample:
    """Draw an array, an object, or objects one after another."""
    random = Random(draw(st.integers(0, 2**32)))  # quicker by far than drawing every choice
    records = [record_text(random) for _ in range(draw(st.integers(0, 4)))]
    shape = draw(st.sampled_from(("array", "object", "lines", "concatenated")))
    if shape == "array" or not records:
        return Sample("[" + draw(st.sampled_from((",", ", ", ",\n"))).join(records) + "]", records)
    if shape == "object":
        return Sample(records[0], records[:1])
    return Sample(("\n" if shape == "lines" else "").join(records), records)
