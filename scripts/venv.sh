# shellcheck shell=sh
# Sourced by run, test and lock: finds a Python, and keeps a virtual environment in step with a lock file.
# Plain POSIX sh; nothing else is assumed on the machine.

# find_python: prints the interpreter to use; the variable PYTHON chooses another one.
# The order prefers releases that the embedded database has wheels for (3.11 to 3.13).
find_python() {
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.13 python3.12 python3.11 python3 python; fi
    for _candidate in "$@"; do
        # A name on PATH may be a version manager's stub that runs nothing, so each is tried. ensurepip is missing
        # where a distribution ships it apart (Debian's python3-venv).
        if "$_candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v -- "$_candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        printf '%s\n' "PYTHON=$PYTHON is not a Python 3.11 or newer with its modules venv and ensurepip." >&2
    else
        printf '%s\n' "Arrow needs Python 3.11 or newer with its modules venv and ensurepip, and found none." \
            "Debian, Ubuntu: apt install python3 python3-venv. macOS: brew install python@3.13." \
            "One that is not on PATH: PYTHON=/path/to/python3.13 $0" >&2
    fi
    return 1
}

# python_identity PYTHON: prints what an environment depends on: implementation and exact release.
python_identity() {
    "$1" -I -S -c 'import sys; print(sys.implementation.cache_tag, sys.version.replace("\n", " "))' 2>/dev/null
}

# venv_is_current DIR LOCK: true if DIR holds the packages of LOCK, for the Python it was made with, and for PYTHON
# where that is set. Costs one bare start of an interpreter or two (10 ms each).
venv_is_current() {
    _identity=$(python_identity "$1/bin/python") || return 1 # no environment, or its Python is gone
    if [ -n "${PYTHON:-}" ] && [ "$_identity" != "$(python_identity "$PYTHON")" ]; then return 1; fi
    [ -f "$1/arrow-lock.txt" ] && [ "$(cat -- "$1/arrow-lock.txt")" = "$_identity
$(cat -- "$2")" ]
}

_loaded_later='/(jax|jaxlib|flax|optax|orbax|tensorstore|treescope|sklearn|skops|scipy|pandas|shapely)/|/tests?/'

# sync_venv DIR LOCK: afterwards DIR holds exactly the packages of LOCK.
sync_venv() {
    if venv_is_current "$1" "$2"; then return; fi
    _python=$(find_python) || return
    printf 'Installing %s into %s with %s (once; about half a minute) ...\n' \
        "$2" "$1" "$("$_python" --version)" >&2
    # Always from nothing: what an interrupted install left, or another lock, must not stay.
    rm -rf -- "$1" &&
        "$_python" -m venv "$1" &&
        # --no-deps: the lock is complete, so there is nothing to resolve, and a package it lacks shows at once.
        "$1/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-compile \
            --require-hashes --no-deps --requirement "$2" || return
    # Bytecode on all cores, where pip would use one; a file that does not compile is no reason to stop. What only the
    # process that trains models loads, and packages' own tests, can wait until somebody asks for them. pip's own
    # variable leaves it all to the first start.
    [ -n "${PIP_NO_COMPILE:-}" ] || "$1/bin/python" -W ignore -m compileall -q -j 0 -x "$_loaded_later" "$1/lib" >/dev/null 2>&1 || :
    # What says "complete" is written last.
    { python_identity "$1/bin/python" && cat -- "$2"; } >"$1/arrow-lock.txt"
}
