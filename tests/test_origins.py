"""RELAY_ALLOWED_ORIGINS: what can never match is refused with the right form; what is named is allowed, and no more."""

from __future__ import annotations

import pytest

from relay import settings
from relay.errors import SettingsError
from relay.origins import Origins, check_origins, is_loopback


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ("*", "name the origins, such as https://chat.example.com"),
        ("https://*", "name the origins"),
        ("null", "would let in every page"),
        ("chat.example.com:8443", "begins with its scheme, such as https://chat.example.com:8443;"),
        ("localhost:3000", "such as http://localhost:3000;"),
        ("localhost", "such as http://localhost;"),
        ("127.0.0.1", "such as http://127.0.0.1;"),
        ("[::1]:3000", "such as http://[::1]:3000;"),
        ("*.example.com", "such as https://*.example.com;"),
        ("chat.example.com/app", "such as https://chat.example.com;"),
        ("//chat.example.com", "begins with its scheme"),
        ("https:/chat.example.com", "begins with its scheme"),
        ("https:/chat.example.com", "such as https://chat.example.com;"),
        ("https//chat.example.com", "such as https://chat.example.com;"),
        ("http//localhost:3000", "such as http://localhost:3000;"),
        ("htps//chat.example.com:8443/app", "such as https://chat.example.com:8443;"),
        ("wss:chat.example.com", "such as https://chat.example.com;"),
        ("https;//chat.example.com", "such as https://chat.example.com;"),
        ("htps://chat.example.com", "did you mean https://chat.example.com?"),
        ("htttp://localhost:3000/", "did you mean http://localhost:3000?"),
        ("htpp://chat.example.com/app", "did you mean http://chat.example.com?"),
        ("hhttps://*.example.com", "did you mean https://*.example.com?"),
        ("httsp://chat.example.com", "did you mean https://chat.example.com?"),
        ("ttps://chat.example.com:443", "did you mean https://chat.example.com?"),
        ("htps://127.1", "did you mean https://chat.example.com?"),
        ("about://blank", "no page has an origin that begins with about://"),
        ("ftp://x.example", "no page has an origin that begins with ftp://"),
        ("javascript://x", "no page has an origin"),
        ("data://x", "no page has an origin"),
        ("blob://x", "no page has an origin"),
        ("http://[::1%25lo]", "is not an origin"),
        ("http://[fe80::1%eth0]:3000", "is not an origin"),
        ("[::1%lo]", "begins with its scheme"),
        ("127.1", "a host is a name alone"),
        ("1234", "a host is a name alone"),
        ("0x7f.1", "a host is a name alone"),
        ("https://chat.example.com/app", "browsers write that origin https://chat.example.com"),
        ("https://chat.example.com/app/", "browsers write that origin https://chat.example.com"),
        ("https://chat.example.com?a=b", "browsers write that origin https://chat.example.com"),
        ("https://chat.example.com#a", "browsers write that origin https://chat.example.com"),
        ("https://me@chat.example.com", "browsers write that origin https://chat.example.com"),
        ("https://chat.example.com:443", "browsers write that origin https://chat.example.com"),
        ("http://chat.example.com:80", "browsers write that origin http://chat.example.com"),
        ("http://chat.example.com:08080", "browsers write that origin http://chat.example.com:8080"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "browsers write that origin http://[::1]:3000"),
        ("https://b\u00fccher.example", "browsers write that origin https://xn--bcher-kva.example"),
        ("https://stra\u00dfe.example", "is not an origin"),
        ("wss://chat.example.com", "is https://"),
        ("ws://chat.example.com", "is http://"),
        ("file:///home", "serve it over HTTP"),
        ("https://*.com", "is not an origin, such as https://chat.example.com or https://*.example.com"),
        ("https://*.127.0.0.1", "is not an origin"),
        ("https://a.*.example.com", "is not an origin"),
        ("https://a*.example.com", "is not an origin"),
        ("https://*.*.example.com", "is not an origin"),
        ("https://chat..example.com", "is not an origin"),
        ("https://chat.example.com:0", "is not an origin"),
        ("https://chat.example.com:65536", "is not an origin"),
        ("https://chat.example.com:https", "is not an origin"),
        ("https://::1", "is not an origin"),
        ("https://[zz]", "is not an origin"),
        ("https://127.1", "is not an origin"),
        ("https://256.0.0.1", "is not an origin"),
        ("http://0x7f000001", "is not an origin"),
        ("https://", "begins with its scheme"),
        ("capacitor://*.localhost", "is not an origin"),
        ("https://a.example https://b.example", "separated by commas"),
        ('["https://a.example"]', "is not an origin"),
    ],
)
def test_what_can_never_match_is_refused_at_the_start_with_the_right_form(
    monkeypatch: pytest.MonkeyPatch, entry: str, right: str
) -> None:
    monkeypatch.setenv("RELAY_ALLOWED_ORIGINS", f"https://good.example, {entry}")
    with pytest.raises(SettingsError) as raised:
        settings.load()
    sentence = str(raised.value)
    assert sentence.startswith(f"RELAY_ALLOWED_ORIGINS: {entry}")
    assert right in sentence


def test_each_wrong_entry_is_named() -> None:
    with pytest.raises(ValueError, match=r"would let in every page.*; .*https://a\.example"):
        check_origins("*,https://b.example,https://a.example/x")


@pytest.mark.parametrize(
    "allowed",
    [
        "", " , ", "https://chat.example.com", "https://Chat.Example.com/ ,http://localhost:3000", "relay.internal",
        "gateway", "relay_gateway", "http://[::1]:3000", "https://*.example.com", "https://*.example.com:8443",
        "capacitor://localhost", "chrome-extension://abcdefghijklmnop", "tauri://localhost", "http://10.0.0.7:8080",
        "https://xn--bcher-kva.example", "https://a_b.example.com", "ionic://localhost", "app://localhost",
        "moz-extension://0b5d3a5e-7f0c-4a0e-9d3b-6a3c1f1f9c11", "safari-web-extension://x", "tps://localhost",
        "http", "7gateway", "gateway.1", "gateway.1a",
    ],
)  # fmt: skip
def test_what_may_match_is_lawful(allowed: str) -> None:
    assert check_origins(allowed) == allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://chat.example.com", True),
        ("HTTPS://CHAT.EXAMPLE.COM", True),
        ("https://chat.example.com:443", True),
        ("http://chat.example.com", False),
        ("https://chat.example.com:8443", False),
        ("https://chat.example.com.evil.example", False),
        ("https://evil.example/https://chat.example.com", False),
        ("https://chat.example.com@evil.example", False),
        ("https://chat.example.com/", False),
        ("https://chat.exam\tple.com", False),
        ("https://pr-7.preview.example.com:8443", True),
        ("https://PR-7.preview.example.com:8443", True),
        ("https://preview.example.com:8443", False),
        ("https://a.b.preview.example.com:8443", False),
        ("https://.preview.example.com:8443", False),
        ("https://*.preview.example.com:8443", False),
        ("https://pr-7.preview.example.com", False),
        ("http://pr-7.preview.example.com:8443", False),
        ("https://evilpreview.example.com:8443", False),
        ("capacitor://localhost", True),
        ("capacitor://127.0.0.1", False),
        ("https://relay.internal", False),
        ("relay.internal", False),
        ("null", False),
        ("", False),
        ("https://[zz]", False),
        ("x" * 60_000, False),
    ],
)
def test_an_origin_is_allowed_that_was_named_and_no_other(origin: str, allowed: bool) -> None:
    named = "https://chat.example.com, https://*.preview.example.com:8443, capacitor://localhost, relay.internal"
    assert Origins(named).allows(origin, "gateway.example") is allowed


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("chat.example.com", True),
        ("relay.internal", True),
        ("pr-7.preview.example.com", True),
        ("a.b.preview.example.com", False),
        ("*.preview.example.com", False),
        ("preview.example.com", False),
        ("evil.example", False),
        ("", False),
    ],
)
def test_the_hosts_of_what_is_allowed_are_known(name: str, known: bool) -> None:
    named = "https://chat.example.com:8443, https://*.preview.example.com, relay.internal"
    assert Origins(named).has_host(name) is known


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://10.0.0.7:8080", "10.0.0.7:8080", True),
        ("https://10.0.0.7:8080", "10.0.0.7:8080", True),  # a proxy takes TLS off
        ("https://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com:443", True),  # as some proxies write it
        ("http://chat.example.com", "chat.example.com:443", False),
        ("http://[2001:db8::1]:8080", "[2001:DB8::1]:8080", True),
        ("http://10.0.0.7:8081", "10.0.0.7:8080", False),
        ("http://10.0.0.7", "10.0.0.7:8080", False),
        ("http://10.0.0.8:8080", "10.0.0.7:8080", False),
        ("http://evil@10.0.0.7:8080", "10.0.0.7:8080", False),
        ("null", "", False),
        ("http://", "", False),
    ],
)
def test_its_own_pages_may_use_a_gateway(origin: str, host: str, own: bool) -> None:
    assert Origins("").allows(origin, host) is own


HERE = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize("page", HERE)
@pytest.mark.parametrize("other", HERE)
def test_on_loopback_the_names_of_this_machine_are_one_place_and_a_port_is_another(page: str, other: str) -> None:
    origins = Origins(f"http://{other}:3000", loopback=True)
    assert origins.allows(f"http://{page}:8080", f"{other}:8080")
    assert not origins.allows(f"http://{page}:8081", f"{other}:8080")
    assert origins.allows(f"http://{page}:3000", "localhost:8080")
    assert not origins.allows(f"https://{page}:3000", "localhost:8080")
    open_to_all = Origins(f"http://{other}:3000")
    assert open_to_all.allows(f"http://{page}:8080", f"{other}:8080") is (page == other)
    assert open_to_all.allows(f"http://{page}:3000", "localhost:8080") is (page == other)


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert [host for host in ("127.0.0.1", "::1", "localhost", "127.0.0.53") if not is_loopback(host)] == []
    assert [host for host in ("0.0.0.0", "::", "", "10.0.0.7", "relay.internal") if is_loopback(host)] == []
