"""The simulator: policies on a trace, in a world that none of them knows."""
