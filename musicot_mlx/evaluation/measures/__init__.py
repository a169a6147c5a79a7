"""Measures of songs: distances, agreement with plans, instruments, copies, the codec."""
