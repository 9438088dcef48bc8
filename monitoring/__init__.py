"""What Prometheus and Grafana are told: rules, and the source of the dashboards."""
