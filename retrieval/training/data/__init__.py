"""What does training read? In: sets of captioned images and frozen towers. Out: `Features`, and random batches of them.

Knows nothing of what is trained on it."""
