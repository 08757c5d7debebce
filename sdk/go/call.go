package prewarmer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	namespaceKey   = "namespace"
	limitKey       = "limit"
	offsetKey      = "offset"
	idempotencyKey = "Idempotency-Key"
	requestIDKey   = "X-Request-Id"
)

// CallOption configures one call. Calls return an error for options that they do not support.
type CallOption struct{ name, value string }

// InNamespace sets the namespace of the object or list.
func InNamespace(namespace string) CallOption { return CallOption{namespaceKey, namespace} }

// AllNamespaces lists objects in every namespace that the caller may read, and overrides
// [WithNamespace].
func AllNamespaces() CallOption { return InNamespace("") }

// IdempotencyKey sets the idempotency key of CreateTask and RetryTask: calls with the same key
// within a day create only one task. By default each call has a random key.
func IdempotencyKey(key string) CallOption { return CallOption{idempotencyKey, key} }

// RequestID sets the request ID in the server's log. By default the server generates it.
func RequestID(id string) CallOption { return CallOption{requestIDKey, id} }

// Limit sets the maximum number of items of a page; for iterators, the number of items per request.
func Limit(n int) CallOption { return CallOption{limitKey, strconv.Itoa(n)} }

// Offset sets the number of items to skip.
func Offset(n int) CallOption { return CallOption{offsetKey, strconv.Itoa(n)} }

// WithStatus lists only tasks with this status.
func WithStatus(status Status) CallOption { return CallOption{"status", string(status)} }

// WithSearch lists only tasks whose name or images contain this text, of at most 200 characters.
func WithSearch(text string) CallOption { return CallOption{"search", text} }

// WithEnabled lists only enabled or only disabled schedules.
func WithEnabled(enabled bool) CallOption { return CallOption{"enabled", strconv.FormatBool(enabled)} }

// WithEligible lists only nodes that are currently eligible for tasks, or only those that are not.
func WithEligible(eligible bool) CallOption {
	return CallOption{"eligible", strconv.FormatBool(eligible)}
}

// operation is an operation of the OpenAPI document.
type operation struct {
	method, path string
	query        []string
}

// request is a call of an operation with all parameters.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
	// repeatable reports whether the call is idempotent.
	repeatable bool
}

// request builds a request with the ids in the path and the options in the query.
func (c *Client) request(op operation, opts []CallOption, ids ...string) (*request, error) {
	path, err := fillPath(op.path, ids)
	if err != nil {
		return nil, fmt.Errorf("prewarmer: %s %s: %w", op.method, op.path, err)
	}
	r := &request{method: op.method, path: path, query: url.Values{}, header: http.Header{}, repeatable: op.method != http.MethodPost}
	if c.namespace != "" && slices.Contains(op.query, namespaceKey) {
		r.query.Set(namespaceKey, c.namespace)
	}
	for _, opt := range opts {
		if err := r.set(op, opt); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *request) set(op operation, opt CallOption) error {
	switch {
	case opt.name == requestIDKey:
		r.header.Set(opt.name, opt.value)
	case !slices.Contains(op.query, opt.name):
		return fmt.Errorf("prewarmer: %s %s: the option %s is not supported", op.method, op.path, opt.name)
	case opt.value == "":
		r.query.Del(opt.name)
	default:
		r.query.Set(opt.name, opt.value)
	}
	return nil
}

// setBody encodes a struct of this package as JSON. Only Tolerations can contain values that JSON
// cannot represent.
func (r *request) setBody(value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("prewarmer: %s %s: %w", r.method, r.path, err)
	}
	r.body = body
	r.header.Set("Content-Type", "application/json")
	return nil
}

// setIdempotencyKey sets the idempotency key, which makes the call repeatable.
func (r *request) setIdempotencyKey(key string) error {
	if key == "" {
		return errors.New("prewarmer: the Idempotency-Key is empty")
	}
	r.header.Set(idempotencyKey, key)
	r.repeatable = true
	return nil
}

// fillPath inserts the ids into the path. It rejects ids that would change the path: GET /tasks/ is
// a list.
func fillPath(path string, ids []string) (string, error) {
	for _, id := range ids {
		if id == "" || id == "." || id == ".." {
			return "", errors.New("the id is empty or not a valid name")
		}
		start := strings.Index(path, "{")
		end := strings.Index(path, "}")
		path = path[:start] + url.PathEscape(id) + path[end+1:]
	}
	return path, nil
}

// take removes the options with this name, for calls that do not send them in the query, and
// returns the last value.
func take(opts []CallOption, name, value string) (string, []CallOption) {
	var rest []CallOption
	for _, opt := range opts {
		if opt.name == name {
			value = opt.value
			continue
		}
		rest = append(rest, opt)
	}
	return value, rest
}
