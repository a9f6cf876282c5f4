"""Checks of the exercises of lessons 10 to 12: frames, training, predictions."""
