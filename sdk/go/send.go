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

// maxAnswer is the maximum size of a response in bytes. It exceeds the size of any page of the API.
const maxAnswer = 64 << 20

// do sends the call, with retries where they are safe, and decodes the response.
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
			return nil, fmt.Errorf("%w while waiting for a retry: %w", stopped, err)
		}
	}
}

// try makes one attempt with its own timeout, so that time remains for a retry if the server does
// not answer.
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
		return nil, fmt.Errorf("prewarmer: %s %s: unexpected response: %w", r.method, r.path, err)
	}
	return resp.Header, nil
}

// roundTrip sends the request. It also returns the token, to redact it in the response.
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

// explainTimeout distinguishes the timeout of one attempt from the end of the caller's context.
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

// describeTries adds the number of attempts to an error.
func describeTries(err error, tries int) error {
	var apiError *APIError
	if errors.As(err, &apiError) {
		apiError.Attempts = tries
		return err
	}
	if tries == 1 {
		return err
	}
	return fmt.Errorf("%w (%d attempts)", err, tries)
}

// connectionError is a failed call without a response.
type connectionError struct {
	request *request
	err     error
	// unsent: the server cannot have received the call. permanent: a retry would fail again.
	unsent, permanent bool
}

func newConnectionError(r *request, err error) *connectionError {
	// Otherwise the message would contain the URL twice.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return &connectionError{request: r, err: err, unsent: isDial(err), permanent: isPermanent(err)}
}

func (e *connectionError) Error() string {
	return fmt.Sprintf("prewarmer: %s %s: %v", e.request.method, e.request.path, e.err)
}

func (e *connectionError) Unwrap() error { return e.err }
