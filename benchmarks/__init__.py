"""Figures that the documents quote, each compared with a baseline in the same run. `make bench` prints them all."""
