package prewarmer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"
)

const (
	// pollEvery is the polling interval of Wait where watching is not possible.
	pollEvery = 2 * time.Second
	// completionTimeout and completionPoll are the defaults of WaitForCompletion.
	completionTimeout = 10 * time.Minute
	completionPoll    = 5 * time.Second
	// settling is the time for which a new task may be unknown to another replica.
	settling = 3 * time.Second
)

// WaitOption configures [Client.Wait]. Each [CallOption], such as [InNamespace], is a WaitOption.
type WaitOption interface{ applyWait(*waiter) }

type waitFunc func(*waiter)

func (f waitFunc) applyWait(w *waiter) { f(w) }

func (o CallOption) applyWait(w *waiter) { w.opts = append(w.opts, o) }

// WithInterval polls the task at this interval instead of watching it, for proxies that do not
// support streams.
func WithInterval(d time.Duration) WaitOption {
	return waitFunc(func(w *waiter) { w.interval = d })
}

// WithProgress calls report with the task at the start and after each change. [ProgressWriter]
// returns such a function.
func WithProgress(report func(*TaskView)) WaitOption {
	return waitFunc(func(w *waiter) { w.report = report })
}

// FailUnlessCompleted returns a [*TaskFailedError] for a task that failed or was cancelled.
func FailUnlessCompleted() WaitOption {
	return waitFunc(func(w *waiter) { w.strict = true })
}

// Wait returns the task when it has ended with any status: see [FailUnlessCompleted]. The context
// limits the wait. With an error, it also returns the last known state of the task, if any.
func (c *Client) Wait(ctx context.Context, id string, opts ...WaitOption) (*TaskView, error) {
	w := &waiter{client: c, id: id}
	for _, opt := range opts {
		opt.applyWait(w)
	}
	if err := w.run(ctx); err != nil {
		return w.last, w.explain(err)
	}
	if w.strict && w.last.Status != StatusCompleted {
		return w.last, newTaskFailedError(w.last)
	}
	return w.last, nil
}

// WaitForCompletion waits until the task has completed. Unlike [Client.Wait] it returns a
// [*TaskFailedError] for a task that failed or was cancelled, polls every 5 seconds, and gives up
// after 10 minutes with the error [context.DeadlineExceeded]. The options are those of Wait.
func (c *Client) WaitForCompletion(ctx context.Context, id string, opts ...WaitOption) (*TaskView, error) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	defaults := []WaitOption{FailUnlessCompleted(), WithInterval(completionPoll)}
	return c.Wait(ctx, id, append(defaults, opts...)...)
}

type waiter struct {
	client   *Client
	id       string
	opts     []CallOption
	interval time.Duration
	report   func(*TaskView)
	strict   bool
	last     *TaskView
}

// run watches the task, and polls if the watch fails: a proxy or a token may allow only one of
// them.
func (w *waiter) run(ctx context.Context) error {
	if w.interval <= 0 {
		w.interval = pollEvery
		w.watch(ctx)
	}
	if w.last != nil && w.last.Ended() {
		return nil
	}
	return w.poll(ctx)
}

// watch watches the task. Its errors are ignored, because poll reports persistent ones.
func (w *waiter) watch(ctx context.Context) {
	for task, err := range w.client.WatchTask(ctx, w.id, w.opts...) {
		if err != nil {
			return
		}
		w.see(task)
	}
}

func (w *waiter) poll(ctx context.Context) error {
	began := w.client.clock.now()
	for {
		task, err := w.client.GetTask(ctx, w.id, w.opts...)
		young := w.last == nil && w.client.clock.now().Sub(began) < settling
		switch {
		case err == nil:
			w.see(task)
			if task.Ended() {
				return nil
			}
		case !young || !errors.Is(err, ErrNotFound):
			return err
		}
		if err := w.client.clock.sleep(ctx, w.interval); err != nil {
			return err
		}
	}
}

func (w *waiter) see(task *TaskView) {
	changed := w.last == nil || !reflect.DeepEqual(*w.last, *task)
	w.last = task
	if changed && w.report != nil {
		w.report(task)
	}
}

func (w *waiter) explain(err error) error {
	if w.last == nil {
		return fmt.Errorf("waiting for %s: %w", w.id, err)
	}
	return fmt.Errorf("waiting for %s, which was %s at %.1f%%: %w", w.id, w.last.Status, w.last.Progress.Percentage, err)
}
