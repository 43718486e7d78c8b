"""Providers that several features use."""
