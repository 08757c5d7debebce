#!/usr/bin/env bash
# Checks the Go SDK: format, vet, generated code, tests (with a server if PREWARMER_URL and
# PREWARMER_TOKEN are set), and its use from another module.
#   check.sh --live    fails if the live tests cannot run
set -euo pipefail
# A relative path is relative to the caller's working directory.
if [[ -n ${PREWARMER_CA_FILE:-} ]]; then
  PREWARMER_CA_FILE=$(realpath "$PREWARMER_CA_FILE")
  export PREWARMER_CA_FILE
fi
cd "$(dirname "$0")"
case ${1:-} in
  '') ;;
  --live) export PREWARMER_SDK_LIVE=1 ;;
  *) echo "usage: check.sh [--live]" >&2; exit 2 ;;
esac
# No toolchain and no modules are downloaded.
export GOTOOLCHAIN=local GOPROXY=off
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unformatted=$(gofmt -l .)
if [[ -n $unformatted ]]; then
  echo "sdk/go: run gofmt -w on: ${unformatted//$'\n'/ }" >&2
  exit 1
fi
go vet ./...
if command -v staticcheck >/dev/null; then staticcheck ./...; fi

go run ./internal/gen -in "${PREWARMER_OPENAPI:-../../deploy/openapi.json}" -out "$work/types.gen.go"
if ! diff -u types.gen.go "$work/types.gen.go"; then
  echo "sdk/go: types.gen.go is not current: run go generate ./..." >&2
  exit 1
fi

go test -count=1 -timeout 10m ./...

# A module of a user that only requires the SDK.
mkdir "$work/user"
cat >"$work/user/main.go" <<'GO'
package main

import (
	"context"
	"fmt"
	"os"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

func main() {
	client, err := prewarmer.FromEnv()
	if err == nil && len(os.Args) == 1 { // with an argument: no server
		var stats *prewarmer.Stats
		if stats, err = client.GetStats(context.Background()); err == nil {
			fmt.Println("tasks:", stats.TotalTasks)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
GO
sdk=$PWD
cd "$work/user"
go mod init example.com/user 2>/dev/null
go mod edit -require=github.com/prewarmer/prewarmer/sdk/go@v0.0.0 -replace="github.com/prewarmer/prewarmer/sdk/go=$sdk"
go build -o user .
if [[ -n ${PREWARMER_URL:-} && -n ${PREWARMER_TOKEN:-} ]]; then
  ./user
  echo "sdk/go: all checks passed, with the server at $PREWARMER_URL"
else
  PREWARMER_URL=http://localhost ./user offline
  echo "sdk/go: all checks passed without a server (the tests with one need PREWARMER_URL and PREWARMER_TOKEN)"
fi
