package prewarmer

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Amount is a number of nodes, or a text such as a percentage of them. The zero Amount leaves the choice to the server.
type Amount struct {
	text  string
	count int
	set   bool
}

// Count is so many nodes.
func Count(n int) Amount { return Amount{count: n, set: true} }

// Percent is so many of a hundred nodes.
func Percent(n int) Amount { return Word(strconv.Itoa(n) + "%") }

// Word is an amount by name: "all" or "auto".
func Word(text string) Amount { return Amount{text: text, set: true} }

// IsZero tells whether it is left to the server.
func (a Amount) IsZero() bool { return !a.set }

// String is 10, 25%, all, or nothing.
func (a Amount) String() string {
	if a.set && a.text == "" {
		return strconv.Itoa(a.count)
	}
	return a.text
}

// MarshalJSON writes a number or a text.
func (a Amount) MarshalJSON() ([]byte, error) {
	switch {
	case !a.set:
		return []byte("null"), nil
	case a.text != "":
		return json.Marshal(a.text)
	}
	return json.Marshal(a.count)
}

// UnmarshalJSON reads a number or a text.
func (a *Amount) UnmarshalJSON(data []byte) error {
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return err
	}
	switch value := value.(type) {
	case nil:
		*a = Amount{}
	case string:
		*a = Word(value)
	case float64:
		*a = Count(int(value))
	default:
		return fmt.Errorf("%s: expected a number or a text", data)
	}
	return nil
}

// Ptr is for optional fields where zero has a meaning of its own: MaxRetries: prewarmer.Ptr(2).
func Ptr[T any](value T) *T { return &value }
