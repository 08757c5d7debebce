module github.com/prewarmer/prewarmer/sdk/go

go 1.24
