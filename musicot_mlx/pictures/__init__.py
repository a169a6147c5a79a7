"""Pictures and films in: files of any usual kind to the pixels that a vision transformer takes."""
