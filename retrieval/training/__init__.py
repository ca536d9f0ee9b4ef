"""Training the heads of an encoder on captioned images. Needs torch, which nothing outside this package does."""
