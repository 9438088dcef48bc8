"""The packing as one self-contained HTML page: frozen values in, a string out. No script, nothing from elsewhere."""
