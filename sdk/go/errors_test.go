package prewarmer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestErrorsContainTheServerMessage(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "r1")
		reply(w, 400, `{"error":"2 fields are invalid","details":[{"field":"batchSize","message":"1000: expected 1 to 100"},`+
			`{"field":"","message":"nothing fits"}],"new":{"in":"a newer server"}}`)
	})
	_, err := client.CreateTask(context.Background(), TaskRequest{})
	const expected = "prewarmer: POST /api/v1/tasks: 400 Bad Request: 2 fields are invalid: batchSize: 1000: expected 1 to 100; " +
		"nothing fits (request r1)"
	if err == nil || err.Error() != expected {
		t.Errorf("%v", err)
	}
	var apiError *APIError
	if !errors.As(err, &apiError) || len(apiError.Details) != 2 || apiError.Method != "POST" || apiError.Attempts != 1 {
		t.Errorf("%+v", apiError)
	}
}

func TestConflictReportsTheTaskStatus(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 409, `{"error":"the task has ended","status":"completed","taskId":"t1"}`)
	})
	_, err := client.CancelTask(context.Background(), "t1")
	var apiError *APIError
	if !errors.As(err, &apiError) || apiError.Status != "completed" || apiError.TaskID != "t1" || !errors.Is(err, ErrConflict) {
		t.Errorf("%+v", apiError)
	}
}

func TestErrorsHaveKinds(t *testing.T) {
	all := []error{ErrBadRequest, ErrUnauthorized, ErrForbidden, ErrNotFound, ErrConflict, ErrTooManyRequests, ErrUnavailable}
	expected := map[int]error{400: ErrBadRequest, 401: ErrUnauthorized, 403: ErrForbidden, 404: ErrNotFound, 409: ErrConflict,
		413: ErrBadRequest, 415: ErrBadRequest, 422: ErrBadRequest, 429: ErrTooManyRequests, 500: nil, 502: ErrUnavailable,
		503: ErrUnavailable, 504: ErrUnavailable, 418: nil}
	for status, kind := range expected {
		client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, status, `{"error":"x"}`) }, WithRetries(0))
		_, err := client.GetStats(context.Background())
		for _, candidate := range all {
			if errors.Is(err, candidate) != (candidate == kind) {
				t.Errorf("%d: is %v: %v", status, candidate, errors.Is(err, candidate))
			}
		}
	}
}

func TestForeignResponsesAreDescribed(t *testing.T) {
	page := "<html>\n<title>Sign in</title>\x1b[31m " + strings.Repeat("é", 300)
	for status, kind := range map[int]string{200: "text/html; charset=utf-8", 404: "text/html", 500: ""} {
		client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			if kind != "" {
				w.Header().Set("Content-Type", kind)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(page))
		})
		_, err := client.GetStats(context.Background())
		var apiError *APIError
		if !errors.As(err, &apiError) || apiError.StatusCode != status {
			t.Fatalf("%d: %v", status, err)
		}
		text := err.Error()
		if !strings.Contains(text, "not the API's JSON") || !strings.Contains(text, "<title>Sign in</title>") ||
			strings.ContainsAny(text, "\x1b\n") || len(text) > 500 {
			t.Errorf("%d: %s", status, text)
		}
	}
}

func TestUnexpectedResponse(t *testing.T) {
	client, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, `{"totalTasks":"many"}`) })
	_, err := client.GetStats(context.Background())
	if err == nil || !strings.Contains(err.Error(), "GET /stats: unexpected response") {
		t.Errorf("%v", err)
	}
}
