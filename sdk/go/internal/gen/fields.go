package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// goField returns the Go type of a field, and the options of its tag.
//
// If an absent value and the zero value have the same meaning, the field is omitted when zero. If
// zero is a distinct value (maxRetries, enabled), an optional field is a pointer.
func goField(key string, s *schema, required bool) (goType, omit string, err error) {
	if isTime(key, s) {
		if required {
			return "time.Time", "", nil
		}
		return "*time.Time", ",omitempty", nil
	}
	goType, err = goTypeOf(s)
	if err != nil || required {
		return goType, "", err
	}
	switch {
	case len(s.OneOf) > 0, s.Ref != "":
		// omitempty does not omit structs.
		return goType, ",omitzero", nil
	case zeroMeansSomething(s):
		return "*" + goType, ",omitempty", nil
	}
	return goType, ",omitempty", nil
}

func isTime(key string, s *schema) bool {
	return s.kind() == "string" && (strings.HasSuffix(key, "At") || key == "timestamp" || key == "estimatedCompletion")
}

func zeroMeansSomething(s *schema) bool {
	switch s.kind() {
	case "boolean", "number":
		return true
	case "integer":
		return s.Minimum == nil || *s.Minimum < 1
	}
	return false
}

func goTypeOf(s *schema) (string, error) {
	if s.Ref != "" {
		return s.refName(), nil
	}
	if len(s.OneOf) > 0 {
		return choiceType(s)
	}
	switch s.kind() {
	case "string":
		return "string", nil
	case "boolean":
		return "bool", nil
	case "number":
		return "float64", nil
	case "integer":
		if s.Format == "int64" {
			return "int64", nil
		}
		return "int", nil
	case "array":
		item, err := goTypeOf(s.Items)
		return "[]" + item, err
	case "object":
		return mapType(s)
	case "":
		return "any", nil
	}
	return "", fmt.Errorf("no Go type for %q", s.kind())
}

// choiceType supports one choice: a number, or a string such as 25%.
func choiceType(s *schema) (string, error) {
	if len(s.OneOf) == 2 && s.OneOf[0].kind() == "integer" && s.OneOf[1].kind() == "string" {
		return "Amount", nil
	}
	return "", errors.New("unsupported oneOf: expected a number and a string")
}

// mapType returns the type of an object without declared fields: a map of its value type, or of
// any.
func mapType(s *schema) (string, error) {
	if len(s.Properties) > 0 || len(s.AllOf) > 0 {
		return "", errors.New("unsupported inline object: move it to components/schemas")
	}
	if len(s.Additional) == 0 {
		return "map[string]any", nil
	}
	var value schema
	if err := json.Unmarshal(s.Additional, &value); err != nil {
		return "", fmt.Errorf("additionalProperties: %w", err)
	}
	item, err := goTypeOf(&value)
	return "map[string]" + item, err
}
