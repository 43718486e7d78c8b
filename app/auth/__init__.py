"""Accounts and sessions: who may come in, and for how long."""
