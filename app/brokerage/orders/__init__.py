"""Orders: stored before they are sent, sent once, and followed until the broker's book has settled them."""
