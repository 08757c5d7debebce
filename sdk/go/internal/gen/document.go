package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// document is the subset of OpenAPI 3.1 that Prewarmer's document uses.
type document struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	ID         string      `json:"operationId"`
	Summary    string      `json:"summary"`
	Parameters []parameter `json:"parameters"`
}

type parameter struct {
	Name string `json:"name"`
	In   string `json:"in"`
}

type schema struct {
	Ref         string             `json:"$ref"`
	Type        types              `json:"type"`
	Format      string             `json:"format"`
	Description string             `json:"description"`
	Pattern     string             `json:"pattern"`
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
	Enum        []string           `json:"enum"`
	OneOf       []*schema          `json:"oneOf"`
	AllOf       []*schema          `json:"allOf"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Items       *schema            `json:"items"`
	Additional  json.RawMessage    `json:"additionalProperties"`
}

// types is the value of "type": a string, or a list such as ["string", "null"].
type types []string

func (t *types) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte("[")) {
		return json.Unmarshal(text, (*[]string)(t))
	}
	*t = make(types, 1)
	return json.Unmarshal(text, &(*t)[0])
}

// kind returns the type other than null.
func (s *schema) kind() string {
	for _, t := range s.Type {
		if t != "null" {
			return t
		}
	}
	return ""
}

// plain removes null from oneOf, and returns the schema itself if only one alternative remains. A
// choice of a number and a string keeps its alternatives.
func (s *schema) plain() *schema {
	var choices []*schema
	for _, choice := range s.OneOf {
		if len(choice.Type) != 1 || choice.Type[0] != "null" {
			choices = append(choices, choice)
		}
	}
	switch len(choices) {
	case 0:
		return s
	case 1:
		one := *choices[0]
		if one.Description == "" {
			one.Description = s.Description
		}
		return &one
	}
	rest := *s
	rest.OneOf = choices
	return &rest
}

func (s *schema) refName() string {
	return s.Ref[strings.LastIndex(s.Ref, "/")+1:]
}

// flat returns one object with the fields of all parts of an allOf, including referenced schemas.
func (d *document) flat(s *schema) (*schema, error) {
	if len(s.AllOf) == 0 {
		return s, nil
	}
	whole := *s
	whole.Type, whole.AllOf = types{"object"}, nil
	whole.Properties = maps.Clone(s.Properties)
	if whole.Properties == nil {
		whole.Properties = map[string]*schema{}
	}
	whole.Required = slices.Clone(s.Required)
	for _, part := range s.AllOf {
		part, err := d.part(part)
		if err != nil {
			return nil, err
		}
		for key, field := range part.Properties {
			if whole.Properties[key] != nil {
				return nil, fmt.Errorf("%s: defined in two parts of an allOf", key)
			}
			whole.Properties[key] = field
		}
		whole.Required = append(whole.Required, part.Required...)
	}
	return &whole, nil
}

// part returns a part of an allOf, which must be an object without alternatives.
func (d *document) part(s *schema) (*schema, error) {
	if s.Ref != "" {
		named := d.Components.Schemas[s.refName()]
		if named == nil {
			return nil, fmt.Errorf("%s: schema not found", s.Ref)
		}
		s = named
	}
	if kind := s.kind(); len(s.OneOf) > 0 || len(s.Enum) > 0 || (kind != "" && kind != "object") {
		return nil, errors.New("a part of an allOf is not an object")
	}
	return d.flat(s)
}
