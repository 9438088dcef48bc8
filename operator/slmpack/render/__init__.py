"""Pure rendering: domain values to plain manifests."""
