"""The pydantic boundary: v1alpha1 models, their CRD, and their translation to domain values."""
