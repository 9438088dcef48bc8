//go:build tools

// Package helm pins the program that the tests build.
package helm

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
