"""Who did what, on what, from where: append-only entries, chained so that a removed or changed one is found."""
