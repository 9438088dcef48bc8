//go:build tools

// Package kubescore pins the program that the tests build.
package kubescore

import _ "github.com/zegl/kube-score/cmd/kube-score"
