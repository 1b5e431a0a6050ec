"""Networks that turn images into vectors; distances between sets of images are made of these."""
