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

// maxSnippet is the number of bytes shown of a response that is not from the API.
const maxSnippet = 200

// newAPIError parses an error response. It redacts the token, which a proxy may repeat in its error
// page.
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

// foreign describes a response that does not come from Prewarmer.
func foreign(resp *http.Response, body []byte) string {
	if to, err := resp.Location(); err == nil && resp.StatusCode/100 == 3 {
		place := url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}
		return fmt.Sprintf("the redirect to %s is not followed, because it would send the token elsewhere or change the method; "+
			"check the base URL", place.String())
	}
	kind := resp.Header.Get("Content-Type")
	if kind == "" {
		kind = "no content type"
	}
	return fmt.Sprintf("the response is not the API's JSON, but %s, for example from a proxy or another server: %q", kind, snippet(body))
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

// retryAfter parses the header Retry-After, in seconds or as a date. It returns 0 if the value is
// invalid.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}
