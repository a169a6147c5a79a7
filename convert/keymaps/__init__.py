"""Key maps: one ordered table per part of a checkpoint."""
