//go:build tools

// Package tools keeps the program's module in go.mod; it is never compiled.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
