"""What this process uses of the settings' security; set once, at its start."""

from __future__ import annotations

from pathlib import Path

from errata.platform.security.access import Access
from errata.platform.security.audit import AuditLog
from errata.platform.security.authenticator import Authenticator
from errata.platform.settings.security import SecuritySettings


class Security:
    """Transport, identity and audit of one process.

    Attributes:
        settings: of the process.
        authenticator: knows callers; None where everybody may do everything.
        audit: takes lines; None if nothing is audited.
    """

    def __init__(
        self, settings: SecuritySettings, *, service: str = "", data_dir: Path | None = None
    ) -> None:
        """Reads keys, bindings and the audit log's end.

        Args:
            settings: of the process.
            service: its name, for the audit log; empty for a process that serves nothing.
            data_dir: where the audit log is by default.

        Raises:
            StartupError: a file cannot be used.
            UnavailableError: the audit log cannot be continued.
        """
        self.settings = settings
        self.authenticator = Authenticator(settings) if settings.authenticate else None
        self.audit: AuditLog | None = None
        folder = settings.audit_dir or (data_dir / "audit" if data_dir is not None else None)
        if service and settings.audit != "off" and folder is not None:
            self.audit = AuditLog(
                folder / f"{service}.jsonl",
                service=service,
                max_bytes=settings.audit_max_bytes,
                reads=settings.audit == "all",
            )

    def access(self) -> Access:
        """The interceptor of this process's servers."""
        return Access(self.authenticator, self.audit, reflection=self.settings.reflection)


_active = Security(SecuritySettings())


def configure_security(security: Security) -> None:
    """Servers and channels that are made from now on use this."""
    global _active
    _active = security


def active() -> Security:
    """What this process uses."""
    return _active
