"""The imperative shell: observe, plan, execute, report."""
