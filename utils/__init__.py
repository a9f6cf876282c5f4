"""TimeSformer from scratch: the shared module behind the lessons."""

import os

# Before torch loads: threads that wait for each other should sleep meanwhile. Where they spin, a
# training beside any other busy program takes many times as long. The set-up cell says the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
