"""Arrow: a self-hosted trading backend. `uvicorn app.main:app` starts it."""

__version__ = "0.1.0"
