package prewarmer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
)

// maxAnswer is more than any page of the API has.
const maxAnswer = 64 << 20

// do sends the call, again where that is safe, and reads its answer.
func (c *Client) do(ctx context.Context, r *request, into any) error {
	_, err := c.doHeader(ctx, r, into)
	return err
}

func (c *Client) doHeader(ctx context.Context, r *request, into any) (http.Header, error) {
	began := c.clock.now()
	for try := 1; ; try++ {
		header, err := c.try(ctx, r, into)
		if err == nil {
			return header, nil
		}
		wait, again := c.retryIn(ctx, r, err, try, c.clock.now().Sub(began))
		if !again {
			return nil, describeTries(err, try)
		}
		if stopped := c.clock.sleep(ctx, wait); stopped != nil {
			return nil, fmt.Errorf("%w, while waiting to try again: %w", stopped, err)
		}
	}
}

// try is one try: it has its own time, so that a server that does not answer leaves some for the next.
func (c *Client) try(ctx context.Context, r *request, into any) (http.Header, error) {
	timed, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, token, err := c.roundTrip(timed, c.http, r)
	if err != nil {
		return nil, c.explainTimeout(ctx, timed, r, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.explainTimeout(ctx, timed, r, newConnectionError(r, err))
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 || !isJSON(resp) {
		return nil, newAPIError(r, resp, body, token, c.clock.now())
	}
	if err := json.Unmarshal(body, into); err != nil {
		return nil, fmt.Errorf("prewarmer: %s %s: the answer is not as expected: %w", r.method, r.path, err)
	}
	return resp.Header, nil
}

// roundTrip gives back the token too, for what the answer may repeat of it.
func (c *Client) roundTrip(ctx context.Context, client *http.Client, r *request) (*http.Response, string, error) {
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(r.body))
	if err != nil {
		return nil, "", fmt.Errorf("prewarmer: %s %s: %w", r.method, r.path, err)
	}
	req.Header = r.header.Clone()
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	req.Header.Set("User-Agent", c.userAgent)
	token, err := c.authorize(req)
	if err != nil {
		return nil, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", newConnectionError(r, err)
	}
	return resp, token, nil
}

// explainTimeout tells the end of one try's time from the end of the caller's context.
func (c *Client) explainTimeout(ctx, timed context.Context, r *request, err error) error {
	if ctx.Err() == nil && timed.Err() != nil {
		return &connectionError{request: r, err: fmt.Errorf("no answer within %v", c.timeout)}
	}
	return err
}

func isJSON(resp *http.Response) bool {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

// describeTries says how often it was tried: that is the first question about a failure.
func describeTries(err error, tries int) error {
	var apiError *APIError
	if errors.As(err, &apiError) {
		apiError.Attempts = tries
		return err
	}
	if tries == 1 {
		return err
	}
	return fmt.Errorf("%w (tried %d times)", err, tries)
}

// connectionError is a call without an answer.
type connectionError struct {
	request *request
	err     error
	// unsent: the server cannot have heard of it. hopeless: it will be so again.
	unsent, hopeless bool
}

func newConnectionError(r *request, err error) *connectionError {
	// The URL is in the text twice otherwise.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return &connectionError{request: r, err: err, unsent: isDial(err), hopeless: isHopeless(err)}
}

func (e *connectionError) Error() string {
	return fmt.Sprintf("prewarmer: %s %s: %v", e.request.method, e.request.path, e.err)
}

func (e *connectionError) Unwrap() error { return e.err }
