"""fer-nas: find a neural network for facial expression recognition, and run it."""

import os

# onnxruntime 1.29 and later send usage data unless told not to; frames and file names are nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Threads that wait sleep instead of spinning: where another program is busy on the same cores, spinning makes two
# threads many times slower than one. Read when torch loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
