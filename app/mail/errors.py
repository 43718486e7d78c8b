"""What can go wrong between an outbox and a mail server. The texts name kinds and codes, no address and nothing that
the server said: they are stored and logged, and those of `ServerError` are shown in `/health`."""


class MailError(Exception):
    """A mail was not sent; `kind` says why in a few words, `lost` that the connection is of no more use."""

    def __init__(self, kind: str, *, lost: bool = False) -> None:
        super().__init__(kind)
        self.kind = kind
        self.lost = lost


class ServerError(MailError):
    """The server is away, or does not want us, whoever the mail is for: every mail has to wait."""


class DeferredError(MailError):
    """This mail cannot be sent now; others can."""


class RefusedError(MailError):
    """This mail will never be sent."""
