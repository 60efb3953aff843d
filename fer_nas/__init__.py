"""fer-nas: find a neural network for facial expression recognition, and run it."""

__version__ = "0.1.0"
