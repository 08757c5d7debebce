package prewarmer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

const (
	firstWait = 250 * time.Millisecond
	maxWait   = 10 * time.Second
	// maxRetrying is the maximum time from the first attempt of a call to the last.
	maxRetrying = 2 * time.Minute
)

// clock contains functions of time and chance, which tests replace.
type clock struct {
	now    func() time.Time
	sleep  func(context.Context, time.Duration) error
	random func() float64
	// silence is the maximum time without data from a stream.
	silence time.Duration
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retryIn reports whether a failed call is retried, and the delay before the retry.
func (c *Client) retryIn(ctx context.Context, r *request, err error, try int, elapsed time.Duration) (time.Duration, bool) {
	if try > c.retries || ctx.Err() != nil || !mayRepeat(err, r.repeatable) {
		return 0, false
	}
	wait := c.backoff(err, try)
	if elapsed+wait > maxRetrying {
		return 0, false
	}
	// Sleeping until the deadline of the context would only hide the error.
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return 0, false
	}
	return wait, true
}

// mayRepeat reports whether the call may be retried after err. Calls that are not repeatable are
// retried only if the server cannot have processed them.
func mayRepeat(err error, repeatable bool) bool {
	var apiError *APIError
	if errors.As(err, &apiError) {
		switch apiError.StatusCode {
		case http.StatusTooManyRequests:
			return true
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return repeatable
		}
		return false
	}
	var connection *connectionError
	if errors.As(err, &connection) {
		return !connection.permanent && (connection.unsent || repeatable)
	}
	return false
}

// backoff returns the delay before the next attempt, which doubles with each attempt. Half of it is
// random, so that clients do not retry at the same time. The server's Retry-After is a lower bound.
func (c *Client) backoff(err error, try int) time.Duration {
	wait := maxWait
	if try < 10 {
		wait = min(maxWait, firstWait<<(try-1))
	}
	wait = wait/2 + time.Duration(c.clock.random()*float64(wait/2))
	var apiError *APIError
	if errors.As(err, &apiError) && apiError.RetryAfter > 0 {
		wait = apiError.RetryAfter + time.Duration(c.clock.random()*float64(firstWait))
	}
	return wait
}

// isDial reports whether err occurred before a connection was established.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// isPermanent reports whether err is permanent: certificate verification would fail again.
func isPermanent(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}
