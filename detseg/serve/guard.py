"""Who may ask, and what browsers may do with the answers: the headers of requests and responses."""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine, for itself."""

# Scripts, styles and requests only from and to this server; images also from memory, where the page keeps them.
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests that a page of another site makes in somebody's browser, and adds `HEADERS` to every answer.

    Such a page can let its own name point to this machine (DNS rebinding); its name is in the header Host then.

    Args:
        app: what is guarded.
        hosts: names by which the server may be asked; None: any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        wrong = self._wrong(Headers(scope=scope))
        answer = self.app if wrong is None else JSONResponse({"error": wrong[1]}, wrong[0])
        await answer(scope, receive, guarded)

    def _wrong(self, headers: Headers) -> tuple[int, str] | None:
        """Status and message for a request that is refused."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and host_name(host) not in self.hosts:
            return 400, "the server is not called so; ask it by the address that it printed when it started"
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return 403, "pages of other sites may not use this server"
        return None


def host_name(host: str) -> str:
    """The name in a header Host, without a port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server bound to this address or name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOCAL
