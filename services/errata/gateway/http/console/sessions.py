"""Sessions of the console: a sealed cookie with the caller's token, and codes for forms.

A session is a cookie, encrypted and authenticated (Fernet: AES-128-CBC, HMAC-SHA-256), so that all
gateways with the same key know it and none has to keep it. Nothing else can read the token in it.
A second cookie holds a random seed. Every form carries a code that follows from the seed and the
key; another site can neither read nor set it. The code outlives a session, so that a form which was
sent after the session's end is known to be the caller's own. Forms of somebody who is signed in
carry a second part, which follows from his name, too: with the seed and code of another visitor,
nothing can be done in his session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from starlette.requests import Request
from starlette.responses import Response

from errata.errors import InvalidRequestError, StartupError

MAX_TOKEN_CHARS = 2_700
"""Of a token to sign in with: browsers keep cookies of up to 4,096 bytes, sealed."""
_SEED = re.compile("[0-9a-f]{64}")


class Sessions:
    """Makes and reads the console's cookies."""

    def __init__(self, key_file: Path | None, seconds: float, *, secure: bool) -> None:
        """Reads the key, or makes one.

        Args:
            key_file: of the settings; None makes a key for this process.
            seconds: after which a session ends.
            secure: whether browsers reach the gateway by TLS alone.

        Raises:
            StartupError: the file cannot be read, or holds no key.
        """
        key = Fernet.generate_key() if key_file is None else _read(key_file)
        self._fernet = Fernet(key)
        self._form_key = hashlib.sha256(b"forms" + base64.urlsafe_b64decode(key)).digest()
        self._seconds = int(seconds)
        self._secure = secure
        # Neither a plain page nor another host of the domain can set a cookie with this prefix.
        prefix, self._path = ("__Host-", "/") if secure else ("", "/console")
        self.session_cookie = f"{prefix}errata-session"
        self.seed_cookie = f"{prefix}errata-forms"

    def token(self, request: Request) -> str:
        """The token of the request's session; empty without a session or after its end."""
        sealed = request.cookies.get(self.session_cookie, "")
        try:
            return self._fernet.decrypt(sealed.encode(), ttl=self._seconds).decode()
        except (InvalidToken, UnicodeError):
            return ""

    def begin(self, response: Response, token: str) -> None:
        """Gives the browser a session.

        Raises:
            InvalidRequestError: the token is too long for a cookie.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidRequestError(
                f"the token has {len(token):,} characters; a session holds at most "
                f"{MAX_TOKEN_CHARS:,}. Get one with fewer claims.",
                field="token",
            )
        sealed = self._fernet.encrypt(token.encode()).decode()
        self._set(response, self.session_cookie, sealed, self._seconds)

    def end(self, response: Response) -> None:
        """Takes the session from the browser."""
        self._set(response, self.session_cookie, "", 0)

    def seed(self, request: Request) -> str:
        """The browser's seed, or a new one, which `keep_seed` then gives to it."""
        found = request.cookies.get(self.seed_cookie, "")
        return found if _SEED.fullmatch(found) else secrets.token_hex(32)

    def keep_seed(self, request: Request, response: Response, seed: str) -> None:
        """Gives the browser its seed, unless it has it."""
        if request.cookies.get(self.seed_cookie) != seed:
            self._set(response, self.seed_cookie, seed, None)

    def form_code(self, seed: str) -> str:
        """What the forms of this browser carry."""
        return self._code(seed)

    def signed_code(self, code: str, subject: str) -> str:
        """What the forms of this browser carry while somebody is signed in.

        Args:
            code: of the browser.
            subject: who is signed in.
        """
        return code + self._code(f"{code} {subject}")

    def is_form_code(self, request: Request, code: str, subject: str | None = None) -> bool:
        """Whether a form that was sent is one of this browser.

        Args:
            request: with the form.
            code: of the form.
            subject: for whom it must have been made; None takes anybody's.
        """
        seed = request.cookies.get(self.seed_cookie, "")
        if not _SEED.fullmatch(seed) or not code.isascii():
            return False
        wanted = self.form_code(seed)
        if subject is None:
            return hmac.compare_digest(wanted, code[: len(wanted)])
        return hmac.compare_digest(self.signed_code(wanted, subject), code)

    def _code(self, text: str) -> str:
        return hmac.new(self._form_key, text.encode(), hashlib.sha256).hexdigest()

    def _set(self, response: Response, name: str, value: str, seconds: int | None) -> None:
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=self._path,
            secure=self._secure,
            httponly=True,
            samesite="strict",
        )


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
        Fernet(key)
    except (OSError, ValueError) as error:
        raise StartupError(
            f"gateway.console_key_file cannot be used: {error}. Make one: python -c 'import "
            "secrets, base64; print(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())'"
        ) from error
    return key
