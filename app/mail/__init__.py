"""Outgoing mail: requests wait in the database, and one process at a time renders and sends them."""
