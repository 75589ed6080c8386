"""The demo's invented tweets: templates whose only variable part is the record's id.

Each template is known twice: as the bytes that are written, and as the Python values that a correct
selection gives. The second is read off the values the first was encoded from, by none of the code
that the demo is there to check.
"""

import json
import random
from collections.abc import Mapping
from typing import Any

SELECTION = (
    "{id: id, created_at: created_at, text: text, author: user.screen_name,"
    " reply_to: in_reply_to_status_id}"
)
"""Five of the thirty fields of a record, one of them nested; `Template.expected` is its result."""

_PLACE = 7_770_777_077_707_770_777  # stands for the record's id while a template is made
_TEXT_CHARACTERS = 140

_WORDS = (  # what is hard about text, more often than in real tweets
    "river", "lock", "gate", "flow", "water", "mill", "wheel", "sluice", "stone", "valley", "rain",
    "Überlauf", "ñandú", "水門", "Шлюз", "نهر", "🙂", "🚰", "👩🏽‍🔧", "🇨🇭", "“quoted”", '"plain"',
    "back\\slash", "and/or", "tab\there", "line\nbreak", "\u2028", "\x07", "\x7f", "\ufffe",
    "\uffff", "<b>&amp;</b>", "{brace}", "[bracket]", "//", "#", "/*", "*/", "null", "-0", "1e400",
    "e\u0301", "\U0010fffd", "\\ud83d",
)  # fmt: skip


class Template:
    """A tweet but for its id.

    `number` decides how it is written: with or without escapes, in one line or in many, with its
    reply missing, null or there.
    """

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

    def words(characters: int) -> str:
        text = random_.choice(_WORDS)
        while len(text) < characters:
            text += " " + random_.choice(_WORDS)
        return text

    user_id = random_.randrange(10**9)
    reply = random_.randrange(10**18)
    value: dict[str, Any] = {
        "created_at": f"Mon Nov 23 {number % 24:02}:{user_id % 60:02}:07 +0000 2026",
        "id": _PLACE,
        "id_str": str(_PLACE),
        "text": f"{words(_TEXT_CHARACTERS)} https://t.example/{_PLACE} {words(20)}",
        "display_text_range": [0, _TEXT_CHARACTERS],
        "source": '<a href="https://app.example" rel="nofollow">Sluice for Web</a>',
        "truncated": False,
        "in_reply_to_status_id": reply if number % 3 else None,
        "in_reply_to_user_id": user_id if number % 3 else None,
        "in_reply_to_screen_name": words(8) if number % 3 else None,
        "user": {
            "id": user_id,
            "name": words(15),
            "screen_name": f"{random_.choice(_WORDS)}_{_PLACE}",
            "location": random_.choice([None, words(12)]),
            "description": words(110),
            "url": None,
            "verified": bool(number % 2),
            "followers_count": random_.randrange(10**6),
            "created_at": "Tue Mar 21 20:50:14 +0000 2006",
            "profile_image_url": f"https://img.example/profile/{user_id}/normal.jpg",
            "colors": {"link": "1DA1F2", "sidebar": {"border": "C0DEED", "fill": None}},
        },
        "geo": None,
        "coordinates": {"type": "Point", "coordinates": [7.447427, -46.948090000000002]},
        "place": {"id": "07d9db48bc083000", "full_name": words(20), "attributes": {}},
        "contributors": None,
        "is_quote_status": False,
        "quote_count": 0,
        "reply_count": random_.randrange(100),
        "retweet_count": random_.randrange(10_000),
        "favorite_count": random_.randrange(10_000),
        "score": random_.random() * 1e-7,
        "entities": {
            "hashtags": [{"text": words(6), "indices": [n, n + 7]} for n in range(number % 4)],
            "urls": [{"url": f"https://t.example/{_PLACE}", "expanded_url": words(45)}],
            "user_mentions": [{"id": user_id, "name": words(12)} for _ in range(3)],
            "symbols": [],
        },
        "favorited": False,
        "retweeted": False,
        "possibly_sensitive": False,
        "filter_level": "low",
        "lang": random_.choice(["en", "de", "ja", "und", None]),
        "timestamp_ms": "1795415327123",
        "edit_history": {"ids": [str(_PLACE)], "editable": True, "left": 5},
        "card": {"title": words(45), "text": words(110), "values": [1, 2.5, None, {"a": []}]},
    }
    if number % 5 == 0:  # an absent field and a null one are both selected as null
        del value["in_reply_to_status_id"]
    fields = list(value.items())
    random_.shuffle(fields)
    return dict(fields)


def _encoded(value: Mapping[str, Any], number: int) -> str:
    """Return a template as JSON, in one of the ways that writers of JSON differ."""
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
