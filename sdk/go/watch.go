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
	// silence is how long a stream may be without a sign of life; the server gives one every 15 seconds.
	silence = 60 * time.Second
	// steady is how long a connection has to last for the next break not to count as a repetition of the last.
	steady = 10 * time.Second
)

var errCut = errors.New("the stream ended before the task did")

// WatchTask gives the task at once, and again whenever it changes, until it has ended. Breaks of the connection are taken up
// again. It ends after an error.
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
	// lastID is of the last event; heard: there was one since the last connection was made.
	lastID string
	heard  bool
	// over: the task has ended, or the caller reads no further.
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

// connect reads one connection to its end. Its error is never nil unless the watch is over.
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
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what there is of it explains the status
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

// take hands an event on. What comes again after a break is not new.
func (w *watch) take(e event) error {
	if e.id != "" && e.id == w.lastID {
		return nil
	}
	var task TaskView
	if err := json.Unmarshal([]byte(e.data), &task); err != nil {
		return fmt.Errorf("prewarmer: watching %s: the event is no task: %w", w.request.path, err)
	}
	w.lastID, w.heard = e.id, true
	w.over = !w.yield(&task, nil) || task.Ended()
	return nil
}

// stop says why a connection ended.
func (w *watch) stop(ctx context.Context, err error) error {
	switch {
	case err == nil:
		err = errCut
	case ctx.Err() != nil:
		err = fmt.Errorf("nothing was heard for %v", w.client.clock.silence)
	}
	var connection *connectionError
	if errors.As(err, &connection) {
		return err
	}
	return newConnectionError(w.request, err)
}

// streaming is the client without a time limit: a watch takes as long as its task.
func (c *Client) streaming() *http.Client {
	client := *c.http
	client.Timeout = 0
	return &client
}

func isEventStream(resp *http.Response) bool {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && kind == "text/event-stream"
}
