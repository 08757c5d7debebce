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
	// maxRetrying is from the first try of a call to the last.
	maxRetrying = 2 * time.Minute
)

// clock is what tests put something else for.
type clock struct {
	now    func() time.Time
	sleep  func(context.Context, time.Duration) error
	random func() float64
	// silence is how long a stream may be without a sign of life.
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

// retryIn tells whether a call that failed is made again, and when.
func (c *Client) retryIn(ctx context.Context, r *request, err error, try int, elapsed time.Duration) (time.Duration, bool) {
	if try > c.retries || ctx.Err() != nil || !mayRepeat(err, r.repeatable) {
		return 0, false
	}
	wait := c.backoff(err, try)
	if elapsed+wait > maxRetrying {
		return 0, false
	}
	// To sleep until the context ends would only hide the error.
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return 0, false
	}
	return wait, true
}

// mayRepeat is the rule: what is not repeatable is made again only where the server certainly did nothing.
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
		return !connection.hopeless && (connection.unsent || repeatable)
	}
	return false
}

// backoff doubles from try to try. The half of it that is chance keeps many clients from coming back together; the server's
// Retry-After is the least.
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

// isDial: there was no connection yet.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// isHopeless: a certificate does not become good by asking again.
func isHopeless(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}
