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

// CallOption sets up one call. A call refuses an option that it has no use for: it would be silently without effect.
type CallOption struct{ name, value string }

// InNamespace is the namespace of what is made, asked for, or listed.
func InNamespace(namespace string) CallOption { return CallOption{namespaceKey, namespace} }

// AllNamespaces lists in every namespace that the caller may read, whatever [WithNamespace] says.
func AllNamespaces() CallOption { return InNamespace("") }

// IdempotencyKey names a CreateTask: repeated with the same key within a day, it makes no second task. Without it, each
// CreateTask has a key of its own.
func IdempotencyKey(key string) CallOption { return CallOption{idempotencyKey, key} }

// RequestID names the call in the server's log; the server makes one otherwise.
func RequestID(id string) CallOption { return CallOption{requestIDKey, id} }

// Limit is how many a page holds at most; in iterators, how many are asked for at once.
func Limit(n int) CallOption { return CallOption{limitKey, strconv.Itoa(n)} }

// Offset is after how many a page begins.
func Offset(n int) CallOption { return CallOption{offsetKey, strconv.Itoa(n)} }

// WithStatus lists only tasks of this status.
func WithStatus(status Status) CallOption { return CallOption{"status", string(status)} }

// WithSearch lists only tasks in whose name or images this text stands; the server takes at most 200 characters.
func WithSearch(text string) CallOption { return CallOption{"search", text} }

// WithEnabled lists only schedules that are enabled, or are not.
func WithEnabled(enabled bool) CallOption { return CallOption{"enabled", strconv.FormatBool(enabled)} }

// WithEligible lists only nodes that a task would be given now, or would not.
func WithEligible(eligible bool) CallOption {
	return CallOption{"eligible", strconv.FormatBool(eligible)}
}

// operation is a call of the API, as its document has it.
type operation struct {
	method, path string
	query        []string
}

// request is a call with everything in its place.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
	// repeatable: done twice, it has the effect of once.
	repeatable bool
}

// request puts the ids into the path and the options into the query.
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
		return fmt.Errorf("prewarmer: %s %s takes no option %s", op.method, op.path, opt.name)
	case opt.value == "":
		r.query.Del(opt.name)
	default:
		r.query.Set(opt.name, opt.value)
	}
	return nil
}

// setBody is for structs of this package: of them only Tolerations can hold what JSON has no word for.
func (r *request) setBody(value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("prewarmer: %s %s: %w", r.method, r.path, err)
	}
	r.body = body
	r.header.Set("Content-Type", "application/json")
	return nil
}

// fillPath refuses what would make another path of it: GET /tasks/ would be a list.
func fillPath(path string, ids []string) (string, error) {
	for _, id := range ids {
		if id == "" || id == "." || id == ".." {
			return "", errors.New("the id is empty, or no name")
		}
		start := strings.Index(path, "{")
		end := strings.Index(path, "}")
		path = path[:start] + url.PathEscape(id) + path[end+1:]
	}
	return path, nil
}

// take takes an option out, for calls that have it elsewhere than in their query. The last one counts.
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
