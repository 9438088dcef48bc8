"""slmpack: exactly as many replicas of a small language model on a GPU as pay, bounded and explained."""

__all__ = ["__version__"]

__version__ = "0.1.0"
