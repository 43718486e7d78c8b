# syntax=docker/dockerfile:1

# The locked packages, in the folder and with the Python they will run in.
FROM python:3.13-slim-trixie AS builder
WORKDIR /app
COPY requirements.txt ./
COPY scripts/venv.sh scripts/
RUN --mount=type=cache,target=/root/.cache/pip \
    sh -euc '. scripts/venv.sh; sync_venv .venv requirements.txt'

FROM python:3.13-slim-trixie
# tini is process 1: it passes signals on, and reaps the embedded database that a killed worker leaves behind.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 arrow \
    && useradd --system --uid 10001 --gid arrow --home-dir /data --no-create-home --shell /usr/sbin/nologin arrow \
    && install --directory --owner=arrow --group=arrow --mode=0700 /data

WORKDIR /app
COPY --from=builder /app/.venv .venv
COPY requirements.txt pyproject.toml LICENSE ./
COPY scripts scripts
COPY app app
# The service's user cannot write here, so its bytecode is made now.
RUN .venv/bin/python -m compileall -q app

USER 10001:10001
ENV DATA_DIR=/data \
    HOST=0.0.0.0 \
    PORT=8000 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# Liveness, not readiness: a database that is away is no reason to restart the service.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/app/.venv/bin/python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8000), timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]

# The environment is in step with the lock, so scripts/run goes straight on to uvicorn, with the flags it always uses.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["scripts/run"]
