"""The peers' autoscalers, one module each, to the letter of their sources (docs/simulate-policies.md)."""
