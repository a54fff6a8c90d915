"""Sends one message to one target: no redirects, no proxies, and only where it may go."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

import httpx2

from errata.catalog.webhooks.addresses import check_allowed, resolve
from errata.catalog.webhooks.messages import Message
from errata.catalog.webhooks.targets import Target
from errata.errors import PermissionDeniedError, UnavailableError

_MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended.

    Attributes:
        problem: why the target did not take the message; empty if it did.
        retry_after: seconds that the target asks to wait; 0 if it does not.
    """

    problem: str = ""
    retry_after: float = 0.0

    @property
    def is_delivered(self) -> bool:
        """Whether the target took the message."""
        return not self.problem


class Sender:
    """Sends messages; an asynchronous context manager."""

    def __init__(self, timeout_seconds: float) -> None:
        """Opens nothing yet; an attempt takes at most the timeout."""
        self._timeout = timeout_seconds
        # The environment's proxies would connect elsewhere than to the address that was checked.
        self._http = httpx2.AsyncClient(trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def send(self, target: Target, message: Message) -> Attempt:
        """Sends a message once.

        The name is resolved first, and the connection goes to an address that was checked: a name
        that has another address a moment later leads nowhere else.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._send(target, message)
        except TimeoutError:
            return Attempt(f"no answer within {self._timeout:g} s")
        except (UnavailableError, PermissionDeniedError) as error:
            return Attempt(error.message)
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError) as error:
            return Attempt(f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARS])

    async def _send(self, target: Target, message: Message) -> Attempt:
        url = httpx2.URL(target.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await resolve(url.host, port)
        check_allowed(url.host, addresses, allow_private=target.allow_private)
        # An address that leads nowhere must leave time for the others.
        limits = httpx2.Timeout(self._timeout, connect=self._timeout / len(addresses))
        for address in addresses[:-1]:
            try:
                return await self._post(target, url, address, message, limits)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # the next address may answer
        return await self._post(target, url, addresses[-1], message, limits)

    async def _post(
        self,
        target: Target,
        url: httpx2.URL,
        address: IPv4Address | IPv6Address,
        message: Message,
        limits: httpx2.Timeout,
    ) -> Attempt:
        headers = {**message.headers(target.secret, time.time()), "host": url.netloc.decode()}
        request = self._http.build_request(
            "POST",
            url.copy_with(host=str(address)),
            content=message.body,
            headers=headers,
            timeout=limits,
            extensions={"sni_hostname": url.host},  # the certificate must be the name's
        )
        answer = await self._http.send(request, stream=True)
        try:
            return _judged(answer)  # its body is not read
        finally:
            await answer.aclose()


def _judged(answer: httpx2.Response) -> Attempt:
    if answer.is_success:
        return Attempt()
    said = answer.headers.get("retry-after", "")
    wait = float(said) if said.isascii() and said.isdecimal() and len(said) < 7 else 0.0
    if answer.is_redirect:
        return Attempt(f"status {answer.status_code}: redirects are not followed", wait)
    return Attempt(f"status {answer.status_code}", wait)
