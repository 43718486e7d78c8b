"""What can go wrong between an outbox and a mail server. The texts name kinds and codes, no address and nothing that
the server said: they are shown in `/health`."""


class MailError(Exception):
    """A mail was not sent; `kind` says why in a few words."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class ServerError(MailError):
    """The server is away, or does not want us: every mail has to wait.

    `in_mail`: it happened while a mail was handed over, so that this very mail may be the cause; `lost`: the connection
    ended, which a server may do between two mails at any time.
    """

    def __init__(self, kind: str, *, in_mail: bool = False, lost: bool = False) -> None:
        super().__init__(kind)
        self.in_mail = in_mail
        self.lost = lost


class DeferredError(MailError):
    """This mail cannot be sent now; others can."""


class RefusedError(MailError):
    """This mail will never be sent."""
