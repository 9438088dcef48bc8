"""Grafana dashboards from one source; `python -m monitoring.dashboards` writes their JSON and their documentation."""
