"""A hook of schemathesis': of cases that ask the same question again, the first ones. It runs in its process.

Of one place's values of a wrong type it has half a dozen, and of the ways to leave optional properties of a body out as
many as there are pairs of them: together more than half of all requests.
"""

from collections import Counter

import schemathesis

WRONG_TYPES = 1
"""For each parameter and each property of a body."""
COMBINATIONS = 3
"""Of optional properties, for each operation."""
_seen: Counter[tuple[str, ...]] = Counter()


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:  # noqa: ARG001 (by their names)
    """Whether the case is sent."""
    about = case.meta.phase.data if case.meta else None
    scenario = str(getattr(about, "scenario", None))
    if scenario == "incorrect_type":
        most = WRONG_TYPES
        place = (str(about.parameter_location), str(about.parameter), str(about.location))
    elif scenario in {"valid_object", "object_required_and_optional"}:
        most, place = COMBINATIONS, ()
    else:
        return True
    question = (case.operation.label, scenario, *place)
    _seen[question] += 1
    return _seen[question] <= most
