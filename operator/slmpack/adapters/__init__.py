"""I/O: each adapter translates foreign errors into the PortError tree once."""
