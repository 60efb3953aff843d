"""The live application: faces from a camera, picture or video to expressions; loads nothing heavy itself."""

import os

# onnxruntime 1.29 and later sends usage data, names of model files among it, and keeps a data base in the
# cache folder, unless this is set before it is loaded
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
