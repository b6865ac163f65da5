"""Networks: build, attach, train, calibrate, export, load, and run segments on an engine."""

import os

# Read when ONNX Runtime's library is loaded, so it must be set before: without it, importing ONNX Runtime alone leaves
# an id of the machine and a database of events in the user's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
