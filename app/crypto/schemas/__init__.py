"""What goes over the wire in this feature."""
