"""What a sequence is made of: ids, tags, tempi, beats. Numpy alone, so that both sides read it."""
