"""TimeSformer from scratch: the shared module behind the lessons."""

import os

# Before torch loads: threads that wait for each other should sleep meanwhile, not spin. Measured on
# two cores, 40 training steps: alone 2.4 s asleep and 1.8 s spinning; beside one busy program 3.1 s
# and 6.2 s; beside two 5 s, and with threads that spin for ever 89 s. The set-up cell says the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
