//go:build tools

// Package tools keeps the program's module in go.mod; it is never compiled.
package tools

import _ "github.com/goreleaser/nfpm/v2/cmd/nfpm"
