package prewarmer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Kinds of [APIError], for use with errors.Is.
var (
	// ErrBadRequest: fields are invalid, or the cluster rejects them (400, 413, 415, 422).
	ErrBadRequest = errors.New("bad request")
	// ErrUnauthorized: the token is missing or invalid (401).
	ErrUnauthorized = errors.New("unauthorized")
	// ErrForbidden: the caller does not have the permission (403).
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound: the object does not exist, or the caller may not read it (404).
	ErrNotFound = errors.New("not found")
	// ErrConflict: the request conflicts with the current state (409).
	ErrConflict = errors.New("conflict")
	// ErrTooManyRequests: the rate limit is exceeded, after all retries (429).
	ErrTooManyRequests = errors.New("too many requests")
	// ErrUnavailable: the server or the cluster is unavailable, after all retries (502, 503, 504).
	ErrUnavailable = errors.New("unavailable")
)

var kinds = map[int]error{
	http.StatusBadRequest:            ErrBadRequest,
	http.StatusRequestEntityTooLarge: ErrBadRequest,
	http.StatusUnsupportedMediaType:  ErrBadRequest,
	http.StatusUnprocessableEntity:   ErrBadRequest,
	http.StatusUnauthorized:          ErrUnauthorized,
	http.StatusForbidden:             ErrForbidden,
	http.StatusNotFound:              ErrNotFound,
	http.StatusConflict:              ErrConflict,
	http.StatusTooManyRequests:       ErrTooManyRequests,
	http.StatusBadGateway:            ErrUnavailable,
	http.StatusServiceUnavailable:    ErrUnavailable,
	http.StatusGatewayTimeout:        ErrUnavailable,
}

// APIError is an error response of the server.
type APIError struct {
	// StatusCode is the HTTP status code.
	StatusCode int
	// Message is the server's error message.
	Message string
	// Details lists all invalid fields.
	Details []Detail
	// TaskID is the ID of the requested task or schedule.
	TaskID string
	// Status is the current status of the object, if it conflicts with the request.
	Status string
	// RequestID identifies the call in the server's log.
	RequestID string
	// RetryAfter is the delay requested by the server before the next attempt; 0 if it sent none.
	RetryAfter time.Duration
	// Method and Path of the request.
	Method, Path string
	// Attempts is the number of attempts.
	Attempts int
}

// Error returns the request, the status, the server's message and all invalid fields.
func (e *APIError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "prewarmer: %s %s: %d %s: %s", e.Method, e.Path, e.StatusCode, http.StatusText(e.StatusCode), e.Message)
	for i, detail := range e.Details {
		separator := "; "
		if i == 0 {
			separator = ": "
		}
		b.WriteString(separator)
		if detail.Field != "" {
			b.WriteString(detail.Field + ": ")
		}
		b.WriteString(detail.Message)
	}
	var notes []string
	if e.Attempts > 1 {
		notes = append(notes, fmt.Sprintf("%d attempts", e.Attempts))
	}
	if e.RequestID != "" {
		notes = append(notes, "request "+e.RequestID)
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(notes, ", "))
	}
	return b.String()
}

// Is reports whether target is the kind of the status code, such as ErrBadRequest.
func (e *APIError) Is(target error) bool {
	return kinds[e.StatusCode] == target && target != nil
}
