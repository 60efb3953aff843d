"""fer-nas: find a neural network for facial expression recognition, and run it."""

import os

# onnxruntime 1.29 and later send usage data unless told not to; frames and file names are nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
