package prewarmer

import (
	"encoding/json"
	"maps"
)

// unmarshalOpen reads an object, and keeps the fields that are not known by name.
func unmarshalOpen(text []byte, into any, extra *map[string]json.RawMessage, known ...string) error {
	if err := json.Unmarshal(text, into); err != nil {
		return err
	}
	if err := json.Unmarshal(text, extra); err != nil {
		return err
	}
	for _, name := range known {
		delete(*extra, name)
	}
	return nil
}

// marshalOpen writes both into one object; a field with a name goes first.
func marshalOpen(named any, extra map[string]json.RawMessage) ([]byte, error) {
	text, err := json.Marshal(named)
	if err != nil || len(extra) == 0 {
		return text, err
	}
	all := maps.Clone(extra)
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}
