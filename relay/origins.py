"""Origins of web pages: what RELAY_ALLOWED_ORIGINS may contain, and what that allows.

A browser writes an origin in one way only (scheme, name, and a port that is not the scheme's own; RFC 6454, section
6.1). Any other form would never match, and nobody would learn why. So it is refused, with the right form.
"""

from __future__ import annotations

import ipaddress
import re
from itertools import takewhile
from typing import NamedTuple

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?")
_HOST = re.compile(r"(\[[0-9a-f:.]+(?:%[^\s\]]*)?\]|[^\s/?#@:\[\]]*)(?::([0-9]{0,5}))?")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.?")
_LABEL = re.compile(r"[a-z0-9_-]+")
_SCHEMES = {"ws": "http", "wss": "https"}  # of a socket → of the page that opens it
_PORTS = {"http": 80, "https": 443}
_PAGELESS = frozenset({"about", "blob", "data", "filesystem", "ftp", "ftps", "javascript", "mailto", "sftp"})
_EXAMPLE = "https://chat.example.com"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Origin(NamedTuple):
    """`name`: in lower case, an IPv6 address in brackets. `port`: None if it is the scheme's own, or unknown."""

    scheme: str
    name: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}" + ("" if self.port is None else f":{self.port}")


class Origins:
    """What an operator allows. `loopback`: the gateway listens there, so all names of this machine count as one."""

    def __init__(self, allowed: str, *, loopback: bool = False) -> None:
        self._loopback = loopback
        places = [place for entry in _entries(allowed) if (place := _read(entry)) is not None]
        self._places = {self._alike(place) for place in places}
        self._hosts = {place.name for place in places} | {entry for entry in _entries(allowed) if "://" not in entry}

    def allows(self, origin: str, host: str) -> bool:
        """Whether pages of this origin may use a gateway that was reached by this `Host`."""
        place = _read(origin.lower())
        if place is None or "*" in place.name:
            return False
        place = self._alike(place)
        return place in self._places or _widened(place) in self._places or place == self._own(place.scheme, host)

    def has_host(self, name: str) -> bool:
        """Whether the gateway may be reached by this name."""
        return "*" not in name and (name in self._hosts or _any_label(name) in self._hosts)

    def _own(self, scheme: str, host: str) -> Origin | None:
        """The origin of the gateway's own pages. A proxy may have terminated TLS, so the scheme is the page's."""
        found = _HOST.fullmatch(host.lower())
        if found is None or scheme not in _PORTS:
            return None
        return self._alike(_place(scheme, found[1], int(found[2]) if found[2] else None))

    def _alike(self, place: Origin) -> Origin:
        return place._replace(name="localhost") if self._loopback and place.name in _LOOPBACK else place


def is_loopback(host: str) -> bool:
    """Whether this address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(host: str) -> str | None:
    """The name of a `Host` header, without port and brackets; None if it is malformed."""
    found = _HOST.fullmatch(host.lower())
    return None if found is None else found[1].strip("[]")


def check_origins(allowed: str) -> str:
    """Raises ValueError that says, for each entry that can never match, what to write instead."""
    faults = {given.strip(): _fault(_normal(given)) for given in allowed.split(",") if given.strip()}
    if wrong := [f"{given} {fault}" for given, fault in faults.items() if fault is not None]:
        # The environment may hold bytes that are not UTF-8, which a message cannot contain.
        raise ValueError("; ".join(wrong).encode(errors="backslashreplace").decode())
    return allowed


def _entries(allowed: str) -> list[str]:
    return [_normal(given) for given in allowed.split(",") if given.strip()]


def _normal(given: str) -> str:
    return given.strip().rstrip("/").lower()


def _read(origin: str) -> Origin | None:
    found = _ORIGIN.fullmatch(origin)
    return None if found is None else _place(found[1], found[2], int(found[3]) if found[3] else None)


def _place(scheme: str, name: str, port: int | None) -> Origin:
    return Origin(scheme, name, None if port == _PORTS.get(scheme) else port)


def _widened(place: Origin) -> Origin:
    return place._replace(name=_any_label(place.name))


def _any_label(name: str) -> str:
    """chat.example.com → *.example.com"""
    label, _, rest = name.partition(".")
    return f"*.{rest}" if rest and _LABEL.fullmatch(label) else name


def _fault(entry: str) -> str | None:
    """What is wrong with the entry, to be written after it; None if it may match."""
    if entry in ("*", "null") or entry.endswith("://*"):
        return f"would let in every page; name the origins, such as {_EXAMPLE}"
    if re.search(r"\s", entry):
        return "is not an origin; several are separated by commas"
    scheme, has_scheme, rest = entry.partition("://")
    if not has_scheme:
        return _fault_of_host(entry)
    if scheme in _SCHEMES:
        return f"is not an origin: that of a page is {_SCHEMES[scheme]}://…, also where it opens a WebSocket"
    if scheme == "file":
        return "is not an origin: a page from a file has none; serve it over HTTP"
    if scheme in _PAGELESS:
        return f"can never match: no page has an origin that begins with {scheme}://; one is {_EXAMPLE}"
    if scheme not in _PORTS and (meant := _meant(scheme)) is not None:  # apps have other schemes
        return f"can never match: did you mean {_as_browsers_write(meant, _authority(rest)) or _EXAMPLE}?"
    written = entry if _ORIGIN.fullmatch(entry) and "*" not in entry else None
    if scheme in _PORTS:
        written = _as_browsers_write(scheme, _authority(rest))
    if written is None:
        return f"is not an origin, such as {_EXAMPLE} or https://*.example.com"
    return None if entry == written else f"can never match: browsers write that origin {written}"


def _fault_of_host(entry: str) -> str | None:
    """An entry without a scheme is a host of the gateway; those of this machine are known anyway."""
    found = _HOST.fullmatch(entry)
    name = "" if found is None else found[1]
    if found is not None and found[2] is None and _NAME.fullmatch(name) and not (_is_known(name) or _is_address(name)):
        return None
    scheme, rest = _without_colon(entry) or ("http" if _is_known(name) else "https", entry)
    origin = _as_browsers_write(scheme, _authority(rest)) or _EXAMPLE
    return f"can never match: an origin begins with its scheme, such as {origin}; a host is a name alone"


def _without_colon(entry: str) -> tuple[str, str] | None:
    """https//chat.example.com and the like: the scheme that is meant, and what follows it."""
    found = re.fullmatch(r"([a-z]+)[:;/]+(.*)", entry)
    scheme = None if found is None else _SCHEMES.get(found[1]) or _meant(found[1])
    return None if found is None or scheme is None else (scheme, found[2])


def _meant(scheme: str) -> str | None:
    """http or https, if the scheme is that or at most one letter away."""
    known = [scheme] if scheme in _PORTS else ["https", "http"]
    return next((right for right in known if _nearly(scheme, right)), None)


def _nearly(one: str, other: str) -> bool:
    """Equal except for one letter added, missing or changed, or two letters swapped."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    mine, theirs = one[same:], other[same:]
    swapped = mine[:2] == theirs[1::-1] and mine[2:] == theirs[2:]
    return swapped or mine[1:] in (theirs, theirs[1:]) or mine == theirs[1:]


def _authority(rest: str) -> str:
    return re.split(r"[/?#]", rest)[0].rpartition("@")[2]


def _is_known(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost") or _address(name) is not None


def _as_browsers_write(scheme: str, host: str) -> str | None:
    """The origin as browsers write it; None if `host` is malformed. https://*.example.com stands for any one label."""
    found = _HOST.fullmatch(host)
    if found is None or (found[2] and not 0 < int(found[2]) < 65536):
        return None
    name = found[1]
    wildcard = name.startswith("*.")
    try:
        plain = _address(name) or name.removeprefix("*.").encode("idna").decode()
        if plain.encode().decode("idna") != name.removeprefix("*.") and not name.isascii():
            return None  # such as ß, which browsers encode by newer rules than Python
    except UnicodeError:
        return None
    if _address(plain) is None and (not _NAME.fullmatch(plain) or _is_number(plain)):
        return None
    if wildcard and (_address(plain) is not None or "." not in plain.rstrip(".")):
        return None  # *.com
    return str(_place(scheme, "*." * wildcard + plain, int(found[2]) if found[2] else None))


def _is_number(name: str) -> bool:
    """Browsers take a name whose last part is a number for an address: in another form, or invalid."""
    return re.fullmatch(r"0x[0-9a-f]*|[0-9]+", name.rstrip(".").rpartition(".")[2]) is not None


def _is_address(name: str) -> bool:
    """Nothing but numbers: browsers write such a host as an IPv4 address."""
    return all(map(_is_number, name.rstrip(".").split(".")))


def _address(name: str) -> str | None:
    """The address as browsers write it; None if it is not one. They know no zones (`[fe80::1%eth0]`)."""
    try:
        found = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
    if "%" in name:
        return None
    return f"[{found.compressed}]" if found.version == 6 else str(found)
