"""The demo's invented tweets: templates in which only the record's id varies.

Each template exists twice: as the bytes to write, and as the Python values that a correct selection
gives. The values are taken before encoding, so they use none of the code that the demo checks.
"""

import json
import random
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, cast

SELECTION = (
    "{id: id, created_at: created_at, text: text, author: user.screen_name,"
    " reply_to: in_reply_to_status_id}"
)
"""Five of the thirty fields of a record, one of them nested; `Template.expected` is its result."""

_PLACE = 7_770_777_077_707_770_777  # stands for the record's id while a template is made
_TWEET = resources.files("penstock.demo").joinpath("tweet.json").read_text("utf-8")
_HOLE = re.compile(r"<(\d+)>|\$id")  # in its strings: a text of that many characters, or the id

_WORDS = (  # difficult text, more often than in real tweets
    "river", "lock", "gate", "flow", "water", "mill", "wheel", "sluice", "stone", "valley", "rain",
    "Überlauf", "ñandú", "水門", "Шлюз", "نهر", "🙂", "🚰", "👩🏽‍🔧", "🇨🇭", "“quoted”", '"plain"',
    "back\\slash", "and/or", "tab\there", "line\nbreak", "\u2028", "\x07", "\x7f", "\ufffe",
    "\uffff", "<b>&amp;</b>", "{brace}", "[bracket]", "//", "#", "/*", "*/", "null", "-0", "1e400",
    "e\u0301", "\U0010fffd", "\\ud83d",
)  # fmt: skip


class Template:
    """A tweet whose id is left open; `number` decides how its JSON is written."""

    def __init__(self, random_: random.Random, number: int) -> None:
        values = _values(random_, number)
        place = str(_PLACE)
        encoded = _encoded(values, number).encode()
        self._pieces = encoded.split(place.encode())
        self._line_pieces = encoded.replace(b"\n", b" ").split(place.encode())
        self._text = str(values["text"]).split(place)
        self._author = str(values["user"]["screen_name"]).split(place)
        self._created_at = values["created_at"]
        self._reply_to = values.get("in_reply_to_status_id")

    def encoded(self, tweet_id: int, *, in_one_line: bool) -> bytes:
        """Return the tweet's JSON, about 2.4 KB."""
        return (b"%d" % tweet_id).join(self._line_pieces if in_one_line else self._pieces)

    def expected(self, tweet_id: int) -> dict[str, object]:
        """Return what SELECTION must give for the tweet."""
        digits = str(tweet_id)
        return {
            "id": tweet_id,
            "created_at": self._created_at,
            "text": digits.join(self._text),
            "author": digits.join(self._author),
            "reply_to": self._reply_to,
        }


def _values(random_: random.Random, number: int) -> dict[str, Any]:
    """Return template `number` as Python values: a tweet of thirty fields, about 2.4 KB as JSON."""

    def filled(hole: re.Match[str]) -> str:
        if hole[0] == "$id":
            return str(_PLACE)
        text = random_.choice(_WORDS)
        while len(text) < int(hole[1]):
            text += " " + random_.choice(_WORDS)
        return text

    tweet = _filled(json.loads(_TWEET), filled)
    tweet["created_at"] = f"Mon Nov 23 {number % 24:02}:{number % 60:02}:07 +0000 2026"
    tweet["user"]["location"] = random_.choice([None, tweet["user"]["location"]])
    tweet["lang"] = random_.choice(["en", "de", "ja", "und", None])
    del tweet["entities"]["hashtags"][number % 3 :]
    if number % 3 == 0:
        for field in ("status_id", "user_id", "screen_name"):
            tweet[f"in_reply_to_{field}"] = None
    if number % 5 == 0:  # an absent field and a null one are both selected as null
        del tweet["in_reply_to_status_id"]
    return dict(random_.sample([*tweet.items()], len(tweet)))


def _filled(value: Any, fill: Callable[[re.Match[str]], str]) -> Any:
    """Return a JSON value with the holes in its strings filled."""
    if isinstance(value, str):
        return _HOLE.sub(fill, value)
    if isinstance(value, list):
        return [_filled(one, fill) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _filled(one, fill) for key, one in cast("dict[str, Any]", value).items()}
    return value


def _encoded(value: Mapping[str, Any], number: int) -> str:
    """Return a template as JSON, in one of the ways in which writers of JSON differ."""
    match number % 4:
        case 0:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        case 1:
            return json.dumps(value)  # every emoji as a pair of \u escapes
        case 2:
            compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            return compact.replace("/", "\\/")
        case _:
            return json.dumps(value, ensure_ascii=False, indent=1)
