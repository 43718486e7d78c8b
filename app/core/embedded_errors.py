"""What can go wrong with the embedded database.

None of it is a request's fault: these errors end the service's start, or are told by its health.
"""

from app.core.errors import StartupError


class EmbeddedDatabaseError(StartupError):
    """The embedded database could not be started or reached; the message says why and, where it helps, what to do."""


class EmbeddedDatabaseUnavailableError(EmbeddedDatabaseError):
    """The package is not installed: there is no wheel of it for this platform, or it was left out."""


class EmbeddedDatabaseVersionError(EmbeddedDatabaseError):
    """The files were written by another version of the embedded database."""


class EmbeddedDatabaseInUseError(EmbeddedDatabaseError):
    """Another service that is alive uses these files."""


class LaunchError(EmbeddedDatabaseError):
    """A database process ended, or stayed silent, before it answered. The message has the last lines of its log."""


class PortTakenError(LaunchError):
    """Another program listens on the port that the database was to have."""
