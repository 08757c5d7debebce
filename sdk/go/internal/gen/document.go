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

// document is what of OpenAPI 3.1 Prewarmer's document uses.
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

// types is "string" as well as ["string", "null"].
type types []string

func (t *types) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte("[")) {
		return json.Unmarshal(text, (*[]string)(t))
	}
	*t = make(types, 1)
	return json.Unmarshal(text, &(*t)[0])
}

// kind is the type beside null.
func (s *schema) kind() string {
	for _, t := range s.Type {
		if t != "null" {
			return t
		}
	}
	return ""
}

// plain takes "one of this and null" for this. What stays a choice, of a number and a text, keeps its choices.
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

// flat is one object with the fields of every part of an allOf, also of those that are only named there.
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
				return nil, fmt.Errorf("%s: two parts have it", key)
			}
			whole.Properties[key] = field
		}
		whole.Required = append(whole.Required, part.Required...)
	}
	return &whole, nil
}

// part is a part of an allOf by itself: an object, and no choice.
func (d *document) part(s *schema) (*schema, error) {
	if s.Ref != "" {
		named := d.Components.Schemas[s.refName()]
		if named == nil {
			return nil, fmt.Errorf("%s: there is no such schema", s.Ref)
		}
		s = named
	}
	if kind := s.kind(); len(s.OneOf) > 0 || len(s.Enum) > 0 || (kind != "" && kind != "object") {
		return nil, errors.New("a part of an allOf that is no object")
	}
	return d.flat(s)
}
