"""TimeSformer from scratch: the shared module behind the lessons."""
