package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// base is the prefix of every path, which the client replaces by its base URL.
const base = "/api/v1"

func writeOperations(b *bytes.Buffer, doc *document) error {
	b.WriteString("\n// Operations of the API: method, path and query parameters.\nvar (\n")
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		short, found := strings.CutPrefix(path, base)
		if !found {
			return fmt.Errorf("%s: expected a path below %s", path, base)
		}
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			if err := writeOperation(b, short, method, doc.Paths[path][method]); err != nil {
				return fmt.Errorf("%s %s: %w", method, path, err)
			}
		}
	}
	b.WriteString(")\n")
	return nil
}

func writeOperation(b *bytes.Buffer, path, method string, op operation) error {
	if op.ID == "" {
		return errors.New("no operationId")
	}
	var query []string
	for _, p := range op.Parameters {
		if p.In == "query" {
			query = append(query, p.Name)
		}
	}
	parameters := "nil"
	if len(query) > 0 {
		parameters = "[]string{" + quoted(query) + "}"
	}
	fmt.Fprintf(b, "op%s = operation{%q, %q, %s}\n", exported(op.ID), strings.ToUpper(method), path, parameters)
	return nil
}
