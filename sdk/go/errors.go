package prewarmer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// What an [APIError] is, by errors.Is.
var (
	// ErrBadRequest: fields are wrong, or the cluster does not take them (400, 413, 415, 422).
	ErrBadRequest = errors.New("bad request")
	// ErrUnauthorized: there is no token, or nobody knows it (401).
	ErrUnauthorized = errors.New("unauthorized")
	// ErrForbidden: the token does not allow that (403).
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound: there is no such thing, or the caller may not know of it (404).
	ErrNotFound = errors.New("not found")
	// ErrConflict: what is asked for is in the way of what is (409).
	ErrConflict = errors.New("conflict")
	// ErrTooManyRequests: it stayed so after every try (429).
	ErrTooManyRequests = errors.New("too many requests")
	// ErrUnavailable: the cluster or the server did not answer (502, 503, 504).
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

// APIError is an answer that is no success.
type APIError struct {
	// StatusCode is HTTP's.
	StatusCode int
	// Message is what was wrong, in the server's words.
	Message string
	// Details names every bad field.
	Details []Detail
	// TaskID is the task or schedule that was asked for.
	TaskID string
	// Status is where it stands, when that is in the way.
	Status string
	// RequestID finds the call in the server's log.
	RequestID string
	// RetryAfter is when the server would take the call; 0 where it did not say.
	RetryAfter time.Duration
	// Method and Path are the call's.
	Method, Path string
	// Attempts is how often it was tried.
	Attempts int
}

// Error has the server's words and every bad field.
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
		notes = append(notes, fmt.Sprintf("tried %d times", e.Attempts))
	}
	if e.RequestID != "" {
		notes = append(notes, "request "+e.RequestID)
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(notes, ", "))
	}
	return b.String()
}

// Is tells errors.Is which of ErrBadRequest and the others it is.
func (e *APIError) Is(target error) bool {
	return kinds[e.StatusCode] == target && target != nil
}
