package main

import (
	"strings"
	"unicode"
)

var initialisms = map[string]bool{"id": true, "url": true, "os": true, "ttl": true}

// exported returns the exported Go name of taskId (TaskID), list_tasks (ListTasks) or ci-gate
// (CiGate).
func exported(name string) string {
	var b strings.Builder
	for _, word := range words(name) {
		if initialisms[strings.ToLower(word)] {
			b.WriteString(strings.ToUpper(word))
			continue
		}
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

func words(name string) []string {
	var parts []string
	start := 0
	for i, r := range name {
		cut := r == '_' || r == '-'
		if !cut && !(unicode.IsUpper(r) && i > 0) {
			continue
		}
		if i > start {
			parts = append(parts, name[start:i])
		}
		start = i
		if cut {
			start++
		}
	}
	return append(parts, name[start:])
}

// comment returns the description as Go comment lines that start with the name.
func comment(name, description string) string {
	if description == "" {
		return ""
	}
	text := name + ": " + lowerFirst(description)
	return "// " + strings.ReplaceAll(text, "\n", "\n// ") + "\n"
}

// lowerFirst converts the first letter to lower case, except of abbreviations such as RFC.
func lowerFirst(text string) string {
	if len(text) > 1 && unicode.IsUpper(rune(text[1])) {
		return text
	}
	return strings.ToLower(text[:1]) + text[1:]
}
