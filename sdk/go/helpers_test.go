package prewarmer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const testToken = "prw_test_secret-0123456789"

// fakeClock does not sleep, and records the requested durations.
type fakeClock struct {
	mu    sync.Mutex
	time  time.Time
	slept []time.Duration
}

func (f *fakeClock) clock() clock {
	return clock{
		now: func() time.Time {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.time
		},
		sleep: func(ctx context.Context, d time.Duration) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.time = f.time.Add(d)
			f.slept = append(f.slept, d)
			return ctx.Err()
		},
		random:  func() float64 { return 1 },
		silence: silence,
	}
}

func (f *fakeClock) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.time = f.time.Add(d)
}

// serve returns a client of a server with this handler.
func serve(t *testing.T, handler http.HandlerFunc, opts ...Option) (*Client, *fakeClock) {
	t.Helper()
	// Orders the accesses of handlers to shared variables, also across aborted connections, for the
	// race detector.
	var order atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		order.Add(1)
		defer order.Add(1)
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return clientOf(t, server.URL, opts...)
}

func clientOf(t *testing.T, url string, opts ...Option) (*Client, *fakeClock) {
	t.Helper()
	client, err := New(url, append([]Option{WithToken(testToken)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	fake := &fakeClock{time: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)}
	client.clock = fake.clock()
	return client, fake
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// cut closes the connection without a response.
func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

func taskJSON(status string, more string) string {
	return `{"taskId":"t1","namespace":"bank","status":"` + status + `","images":["a"],"batchSize":"50%","nodeSelector":{},` +
		`"priority":5,"maxRetries":0,"retryStrategy":"linear","retryDelay":30,"origin":"rest","progress":{"totalNodes":4,` +
		`"completedNodes":2,"failedNodes":0,"currentBatch":1,"totalBatches":2,"percentage":50.0},"imageDetails":[],` +
		`"failedNodeDetails":[],"message":"at work"` + more + `}`
}

// fresh uses a new connection for each attempt, because net/http itself retries on reused
// connections.
func fresh() Option {
	return WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}})
}
