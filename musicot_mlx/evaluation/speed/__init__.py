"""How fast songs are made, and on what."""
