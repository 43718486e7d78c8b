"""The child process of `image.py`: reads a figure as JSON from standard input, writes the image to standard output.

Runs as a script, and imports nothing of the service.
"""

import asyncio
import json
import sys
from typing import Any, Final

NO_BROWSER: Final = 3
"""Exit status when no browser was found, or the one found does not start."""


def main() -> int:
    """Render one figure; the exit status."""
    import kaleido
    from choreographer import errors

    job: dict[str, Any] = json.load(sys.stdin.buffer)
    # Without a MathJax of its own the renderer's page would fetch one from the internet.
    settings = {"mathjax": False, "timeout": None}
    try:
        image = asyncio.run(kaleido.calc_fig(job["figure"], opts=job["options"], kopts=settings))
    except (errors.ChromeNotFoundError, errors.BrowserDepsError, errors.BrowserFailedError) as error:
        print(error, file=sys.stderr)  # noqa: T201 (to the parent, which reads it)
        return NO_BROWSER
    sys.stdout.buffer.write(image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
