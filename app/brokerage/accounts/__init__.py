"""Accounts at brokers: what opens them, sealed, and their sessions."""
