"""Training the heads of an encoder on captioned images. Needs torch, all but `watching`."""
