"""The musicot command."""
