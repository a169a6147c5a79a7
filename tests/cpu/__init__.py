"""The CPU wing: what it computes is what the plain networks compute."""
