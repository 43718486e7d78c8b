"""Plain HTTP to servers on this machine, without what httpx does for it in vain."""

import ssl
import sys
from importlib.util import find_spec

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx's `verify`. It reads the system's certificates for every client that it makes, at 20 ms of a core and with
thousands of clients; this one is made once and trusts nobody, so that https fails."""

# httpcore looks for this package several times in every request, on the whole path while it is not installed.
if "sniffio" not in sys.modules and find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]  # what Python takes for "there is none"
