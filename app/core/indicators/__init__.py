"""Technical indicators by TA-Lib, behind guards against what it quietly gets wrong.

Importing this package costs nothing. `compute` needs numpy and TA-Lib, which take a tenth of a second and some 30 MB:
whoever uses it imports it inside the function that runs in a thread or a worker, not with the module.
"""

from app.core.indicators.catalog import CATALOG, NAMES, WARM_UP, Indicator
from app.core.indicators.sessions import sessions_of

__all__ = ["CATALOG", "NAMES", "WARM_UP", "Indicator", "sessions_of"]
