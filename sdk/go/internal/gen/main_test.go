package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func generated(t *testing.T, text string) (string, error) {
	t.Helper()
	var doc document
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	source, err := generate(&doc)
	return strings.Join(strings.Fields(string(source)), " "), err
}

func TestFields(t *testing.T) {
	for field, expected := range map[string]string{
		`"webhookUrl": {"type": ["string", "null"]}`:                                                     "WebhookURL string `json:\"webhookUrl,omitempty\"`",
		`"maxRetries": {"type": "integer", "minimum": 0}`:                                                "MaxRetries *int `json:\"maxRetries,omitempty\"`",
		`"priority": {"type": "integer", "minimum": 1}`:                                                  "Priority int `json:\"priority,omitempty\"`",
		`"delay": {"type": "integer", "format": "int64"}`:                                                "Delay *int64 `json:\"delay,omitempty\"`",
		`"endedAt": {"type": "string", "description": "RFC 3339."}`:                                      "// EndedAt: RFC 3339. EndedAt *time.Time `json:\"endedAt,omitempty\"`",
		`"size": {"oneOf": [{"type": "integer"}, {"type": "string", "pattern": "x"}, {"type": "null"}]}`: "// Size: a number, or a string that matches x. Size Amount `json:\"size,omitzero\"`",
		`"kind": {"oneOf": [{"$ref": "#/components/schemas/Kind"}, {"type": "null"}]}`:                   "Kind Kind `json:\"kind,omitzero\"`",
		`"labels": {"type": "object", "additionalProperties": {"type": "string"}}`:                       "Labels map[string]string `json:\"labels,omitempty\"`",
		`"open": {"type": "object"}`:                                                                     "Open map[string]any `json:\"open,omitempty\"`",
		`"any": {"type": "array", "items": {}}`:                                                          "Any []any `json:\"any,omitempty\"`",
		`"on": {"type": "boolean"}`:                                                                      "On *bool `json:\"on,omitempty\"`",
	} {
		source, err := generated(t, `{"components": {"schemas": {"X": {"type": "object", "properties": {`+field+`}}}}}`)
		if err != nil || !strings.Contains(source, "type X struct { "+expected+" }") {
			t.Errorf("%s: %v\n%s", field, err, source)
		}
	}
}

func TestAllOf(t *testing.T) {
	source, err := generated(t, `{"components": {"schemas": {
		"A": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
		"B": {"description": "Two.", "allOf": [{"$ref": "#/components/schemas/A"}, {"properties": {"on": {"type": "boolean"}}}]},
		"C": {"allOf": [{"$ref": "#/components/schemas/B"}], "required": ["more"], "properties": {"more": {"type": "object"}}}}}}`)
	const (
		name = "Name string `json:\"name\"` "
		on   = "On *bool `json:\"on,omitempty\"` }"
		more = "More map[string]any `json:\"more\"` "
	)
	for _, expected := range []string{"type A struct { " + name + "}", "// B: two. type B struct { " + name + on, "type C struct { " + more + name + on} {
		if err != nil || !strings.Contains(source, expected) {
			t.Errorf("%v\n%s\n has no %s", err, source, expected)
		}
	}
}

func TestOperations(t *testing.T) {
	source, err := generated(t, `{"paths": {"/api/v1/a/{id}": {"put": {"operationId": "put_id", "parameters": [
		{"in": "query", "name": "namespace"}, {"in": "path", "name": "id"}]}}}}`)
	if err != nil || !strings.Contains(source, `opPutID = operation{"PUT", "/a/{id}", []string{"namespace"}}`) {
		t.Errorf("%v\n%s", err, source)
	}
}

func TestUnsupportedSchemas(t *testing.T) {
	for _, text := range []string{
		`{"components": {"schemas": {"X": {"type": "string"}}}}`,
		`{"components": {"schemas": {"X": {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}}}}}`,
		`{"components": {"schemas": {"X": {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": true}}}}}}`,
		`{"components": {"schemas": {"X": {"allOf": [{"$ref": "#/components/schemas/Y"}]}}}}`,
		`{"components": {"schemas": {"X": {"allOf": [{"type": "string"}]}}}}`,
		`{"components": {"schemas": {"X": {"allOf": [{"oneOf": [{"type": "object"}]}]}}}}`,
		`{"components": {"schemas": {"X": {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"type": "string"}}}]}}}}`,
		`{"components": {"schemas": {"X": {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"type": "boolean"}]}}}}}}`,
		`{"components": {"schemas": {"X": {"type": "object", "properties": {"a": {"type": "file"}}}}}}`,
		`{"paths": {"/a": {"get": {"operationId": "a"}}}}`,
		`{"paths": {"/api/v1/a": {"get": {}}}}`,
	} {
		if source, err := generated(t, text); err == nil {
			t.Errorf("%s\n%s", text, source)
		}
	}
}
