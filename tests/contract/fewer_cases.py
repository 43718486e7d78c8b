"""A hook of schemathesis': of one place's values of a wrong type (it has half a dozen for each), the first two.

More of them ask the same question again, and were a third of all requests. It runs in schemathesis' process.
"""

from collections import Counter

import schemathesis

WRONG_TYPES = 2
"""For each parameter and each property of a body."""
_seen: Counter[tuple[str, ...]] = Counter()


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:  # noqa: ARG001 (by their names)
    """Whether the case is sent."""
    about = case.meta.phase.data if case.meta else None
    if getattr(about, "scenario", None) != "incorrect_type":
        return True
    place = (case.operation.label, str(about.parameter_location), str(about.parameter), str(about.location))
    _seen[place] += 1
    return _seen[place] <= WRONG_TYPES
