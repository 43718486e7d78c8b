"""What goes over the wire, and the rules for it, by topic."""
