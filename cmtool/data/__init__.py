"""Data sets by name, folder or archive, and the loader."""
