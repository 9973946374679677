"""Who may ask a local server, and what a browser may do with its answers.

A page of any web site can send requests to 127.0.0.1. Three things keep it out: the Host header must name this server
and not a domain whose address was changed to ours (DNS rebinding); a request must not come from another origin, as
browsers tell in ``Origin`` and ``Sec-Fetch-Site``; and no answer carries a permission to be read across origins (CORS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page has no inline script or style, and makes no HTML of text: Trusted Types let the browser hold it to that.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"  # of media files, which strangers may have made
HEADERS = {
    "content-security-policy": FILE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), payment=(), usb=()",
}
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Middleware that answers only those who may ask, and gives each answer the headers above.

    Args:
        host: that the server is bound to. Bound to this machine alone, it has the names of this machine; else also any
            address in numbers, as no domain can pretend to be one, and ``names``.
        names: further names of the Host header, as of a proxy in front.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self.app = app
        self._names = {name.lower() for name in (*_LOCAL, host, *names)}
        self._any_address = not is_local(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here
        why = self._refusal(scope)
        answer = self.app if why is None else PlainTextResponse(why, 403)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        """Why a request is not answered, or None."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        name = _name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._names or (self._any_address and _is_address(name))):
            return "host: this server has another name; start it with --allow-host NAME if it is meant"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and origin.lower() not in (
            f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")
        ):
            return "origin: other pages may not ask this server"
        # A link to the page may stand anywhere; what the page is made of is for the page alone.
        opens_page = scope["path"] == "/" and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if site not in ("same-origin", "none") and not opens_page:
            return "sec-fetch-site: other pages may not ask this server"
        return None


def is_local(host: str) -> bool:
    """Whether a server bound to ``host`` can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str | None:
    """The name in a Host header, without the port; None where it is none."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    else:
        name, _, port = host.partition(":")
    return name.lower().removesuffix(".") if name and (not port or port.isdecimal()) else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
