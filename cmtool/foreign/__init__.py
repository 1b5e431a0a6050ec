"""Readers for weights that other tools have published."""
