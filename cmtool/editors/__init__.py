"""Editors: what can be done to a picture with a model that was never trained for it."""
