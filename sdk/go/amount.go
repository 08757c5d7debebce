package prewarmer

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Amount is a number of nodes, or a text such as a percentage of nodes. For the zero Amount the
// server uses its default.
type Amount struct {
	text  string
	count int
	set   bool
}

// Count returns the Amount of n nodes.
func Count(n int) Amount { return Amount{count: n, set: true} }

// Percent returns the Amount of n percent of the nodes.
func Percent(n int) Amount { return Word(strconv.Itoa(n) + "%") }

// Word returns the Amount with a name: "all" or "auto".
func Word(text string) Amount { return Amount{text: text, set: true} }

// IsZero reports whether the Amount is not set.
func (a Amount) IsZero() bool { return !a.set }

// String returns the Amount as text, such as 10, 25% or all; it is empty if the Amount is not set.
func (a Amount) String() string {
	if a.set && a.text == "" {
		return strconv.Itoa(a.count)
	}
	return a.text
}

// MarshalJSON encodes the Amount as a number or a string.
func (a Amount) MarshalJSON() ([]byte, error) {
	switch {
	case !a.set:
		return []byte("null"), nil
	case a.text != "":
		return json.Marshal(a.text)
	}
	return json.Marshal(a.count)
}

// UnmarshalJSON decodes a number or a string.
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
		return fmt.Errorf("%s: expected a number or a string", data)
	}
	return nil
}

// Ptr returns a pointer to value, for optional fields whose zero value is meaningful:
// MaxRetries: prewarmer.Ptr(0).
func Ptr[T any](value T) *T { return &value }
