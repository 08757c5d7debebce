package prewarmer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxSnippet is how much is shown of an answer that is not the API's.
const maxSnippet = 200

// newAPIError reads the answer's words. A proxy that repeats the request in its page must not make the token readable.
func newAPIError(r *request, resp *http.Response, body []byte, token string, now time.Time) *APIError {
	if token != "" {
		body = bytes.ReplaceAll(body, []byte(token), []byte("[token]"))
	}
	e := &APIError{
		StatusCode: resp.StatusCode,
		RequestID:  resp.Header.Get(requestIDKey),
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), now),
		Method:     r.method,
		Path:       apiPath + r.path,
		Attempts:   1,
	}
	var words ErrorBody
	if isJSON(resp) && json.Unmarshal(body, &words) == nil && words.Error != "" {
		e.Message, e.Details, e.TaskID, e.Status = words.Error, words.Details, words.TaskID, words.Status
		return e
	}
	e.Message = foreign(resp, body)
	return e
}

// foreign describes an answer that Prewarmer does not give.
func foreign(resp *http.Response, body []byte) string {
	if to, err := resp.Location(); err == nil && resp.StatusCode/100 == 3 {
		place := url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}
		return fmt.Sprintf("a redirect to %s is not followed, as it would carry the token elsewhere or change the call: "+
			"is the base URL right?", place.String())
	}
	kind := resp.Header.Get("Content-Type")
	if kind == "" {
		kind = "nothing that has a type"
	}
	return fmt.Sprintf("the answer is not the API's JSON but %s, as from a proxy or another server: %q", kind, snippet(body))
}

func snippet(body []byte) string {
	text := strings.Join(strings.FieldsFunc(string(body), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(text) > maxSnippet {
		text = strings.ToValidUTF8(text[:maxSnippet], "") + "..."
	}
	return text
}

// retryAfter knows both forms: seconds, and a date.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}
