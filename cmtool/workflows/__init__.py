"""One straight line per command; importable as a library."""
