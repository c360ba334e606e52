"""Recipe, augmentation, optimiser and the one training loop."""
