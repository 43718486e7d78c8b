"""What runs here and how it is: root, health, metrics, documentation pages."""
