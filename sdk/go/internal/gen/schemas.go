package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

func writeSchema(b *bytes.Buffer, name string, s *schema) error {
	fmt.Fprintf(b, "\n%s", comment(name, s.Description))
	switch {
	case len(s.Enum) > 0:
		writeEnum(b, name, s)
		return nil
	case s.kind() == "object":
		return writeStruct(b, name, s)
	}
	return errors.New("neither an object nor an enumeration")
}

// writeEnum writes a string type, so that values added by newer servers do not break clients.
func writeEnum(b *bytes.Buffer, name string, s *schema) {
	fmt.Fprintf(b, "type %s string\n\n// Values of %s. Newer servers may add values.\nconst (\n", name, name)
	for _, word := range s.Enum {
		fmt.Fprintf(b, "%s%s %s = %q\n", name, exported(word), name, word)
	}
	b.WriteString(")\n")
}

func writeStruct(b *bytes.Buffer, name string, s *schema) error {
	fmt.Fprintf(b, "type %s struct {\n", name)
	for _, key := range fieldOrder(s) {
		required := slices.Contains(s.Required, key)
		field := s.Properties[key].plain()
		goType, omit, err := goField(key, field, required)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		b.WriteString(comment(exported(key), describe(field)))
		fmt.Fprintf(b, "%s %s `json:%q`\n", exported(key), goType, key+omit)
	}
	b.WriteString("}\n")
	return nil
}

// fieldOrder returns the required fields in the order of the document, then the others by name.
func fieldOrder(s *schema) []string {
	order := slices.Clone(s.Required)
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		if !slices.Contains(order, key) {
			order = append(order, key)
		}
	}
	return order
}

// describe returns the description, or a summary of the alternatives if there is no description.
func describe(s *schema) string {
	if s.Description != "" || len(s.OneOf) == 0 {
		return s.Description
	}
	var choices []string
	for _, choice := range s.OneOf {
		text := "a string"
		switch {
		case choice.Minimum != nil && choice.Maximum != nil:
			text = fmt.Sprintf("a number from %.0f to %.0f", *choice.Minimum, *choice.Maximum)
		case choice.kind() == "integer":
			text = "a number"
		case choice.Pattern != "":
			text = "a string that matches " + choice.Pattern
		}
		choices = append(choices, text)
	}
	return strings.Join(choices, ", or ") + "."
}

func quoted(words []string) string {
	var parts []string
	for _, word := range words {
		parts = append(parts, fmt.Sprintf("%q", word))
	}
	return strings.Join(parts, ", ")
}
