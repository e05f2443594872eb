"""Short scripts, one per real task; run each as `python examples/NAME.py --help`."""
