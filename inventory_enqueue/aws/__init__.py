"""How AWS is reached: sessions, and the two services."""
