"""Numbers from labels and predictions: metrics, intervals, verdicts, baselines. No PyTorch."""
