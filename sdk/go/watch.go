package prewarmer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"time"
)

const (
	// silence is the maximum time without data from a stream. The server sends a keep-alive every
	// 15 seconds.
	silence = 60 * time.Second
	// steady is the duration of a connection after which the count of failures is reset.
	steady = 10 * time.Second
)

var errCut = errors.New("the stream ended before the task did")

// WatchTask iterates over states of the task: the current one, and one for each change until the
// task has ended. It reconnects after connection errors. It stops after an error.
func (c *Client) WatchTask(ctx context.Context, id string, opts ...CallOption) iter.Seq2[*TaskView, error] {
	return func(yield func(*TaskView, error) bool) {
		r, err := c.request(opWatchTask, opts, id)
		if err != nil {
			yield(nil, err)
			return
		}
		r.header.Set("Accept", "text/event-stream")
		w := &watch{client: c, request: r, yield: yield}
		if err := w.run(ctx); err != nil {
			yield(nil, err)
		}
	}
}

type watch struct {
	client  *Client
	request *request
	yield   func(*TaskView, error) bool
	// lastID is the ID of the last event. heard: the current connection has delivered an event.
	lastID string
	heard  bool
	// over: the task has ended, or the caller has stopped the iteration.
	over bool
}

func (w *watch) run(ctx context.Context) error {
	for failures := 1; ; failures++ {
		w.heard = false
		began := w.client.clock.now()
		err := w.connect(ctx)
		if w.over {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("prewarmer: watching %s: %w", w.request.path, context.Cause(ctx))
		}
		if w.heard || w.client.clock.now().Sub(began) >= steady {
			failures = 1
		}
		wait, again := w.client.retryIn(ctx, w.request, err, failures, 0)
		if !again {
			return describeTries(err, failures)
		}
		if err := w.client.clock.sleep(ctx, wait); err != nil {
			return fmt.Errorf("prewarmer: watching %s: %w", w.request.path, err)
		}
	}
}

// connect opens one connection and reads it until its end. The error is nil only if the watch is
// over.
func (w *watch) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(w.client.clock.silence, cancel)
	defer quiet.Stop()
	if w.lastID != "" {
		w.request.header.Set("Last-Event-ID", w.lastID)
	}
	resp, token, err := w.client.roundTrip(ctx, w.client.streaming(), w.request)
	if err != nil {
		return w.stop(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNoContent:
		w.over = true
		return nil
	case resp.StatusCode != http.StatusOK || !isEventStream(resp):
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // a partial body may explain the status
		return newAPIError(w.request, resp, body, token, w.client.clock.now())
	}
	var bad error
	err = readEvents(resp.Body, func() { quiet.Reset(w.client.clock.silence) }, func(e event) bool {
		bad = w.take(e)
		return bad == nil && !w.over
	})
	if bad != nil {
		return bad
	}
	return w.stop(ctx, err)
}

// take passes an event to the caller. An event that is repeated after a reconnect is ignored.
func (w *watch) take(e event) error {
	if e.id != "" && e.id == w.lastID {
		return nil
	}
	var task TaskView
	if err := json.Unmarshal([]byte(e.data), &task); err != nil {
		return fmt.Errorf("prewarmer: watching %s: invalid event: %w", w.request.path, err)
	}
	w.lastID, w.heard = e.id, true
	w.over = !w.yield(&task, nil) || task.Ended()
	return nil
}

// stop returns the reason why a connection ended.
func (w *watch) stop(ctx context.Context, err error) error {
	switch {
	case err == nil:
		err = errCut
	case ctx.Err() != nil:
		err = fmt.Errorf("no data received for %v", w.client.clock.silence)
	}
	var connection *connectionError
	if errors.As(err, &connection) {
		return err
	}
	return newConnectionError(w.request, err)
}

// streaming returns the HTTP client without a timeout, because a watch lasts as long as its task.
func (c *Client) streaming() *http.Client {
	client := *c.http
	client.Timeout = 0
	return &client
}

func isEventStream(resp *http.Response) bool {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && kind == "text/event-stream"
}
