package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

const (
	// reloadTime is how long commands that go on for longer bear it that nobody
	// answers: a reload replaces the admin endpoint.
	reloadTime = 5 * time.Second
	// awayTime is how long they wait for a node that has not answered lately.
	awayTime = 2 * time.Second
	// dialTime and answerTime are how long it may take to connect, and until an
	// answer begins: the storage of states has 3 s, and a host that is off says nothing.
	dialTime, answerTime = 5 * time.Second, 10 * time.Second
	// requestTime bounds a request with all of its answer, a page of tunnels at most.
	requestTime = time.Minute
)

const httpsScheme = "https://"

// errUnreachable is the cause of all failures but those that Caddy answers with.
var errUnreachable = errors.New("is Caddy running there, with its admin endpoint on? Tell where by --address or --config")

// unreachableError is why a node did not answer.
type unreachableError struct {
	node, cause string
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("asking %s: %s: %s", e.node, e.cause, errUnreachable)
}

func (e *unreachableError) Unwrap() error { return errUnreachable }

// answerError is an error that Caddy answers with.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string { return printable.Text(e.text) }

// isUnknown reports whether a node has answered that there is no such thing.
func isUnknown(err error) bool {
	refused, ok := errors.AsType[*answerError](err)
	return ok && refused.status == http.StatusNotFound
}

// node is a Caddy that is asked.
type node struct {
	// name is the address of its admin endpoint, as it was given.
	name string

	origin string // scheme and authority of URLs
	// isSite tells to send the origin as a browser would. Sockets have none, and Caddy's
	// remote admin endpoint allows none.
	isSite bool
	client *http.Client
	// away tells that it has not answered last. It belongs to whoever asks again and
	// again.
	away bool
}

// newNode makes a node of the address of an admin endpoint: one of Caddy's network
// addresses, or https:// and a host with a port.
func newNode(address string, secured *tls.Config) (*node, error) {
	n := &node{name: printable.Text(address)}
	transport := &http.Transport{
		// Each request has a connection of its own, as a reload closes them.
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: answerTime,
		TLSHandshakeTimeout:   answerTime,
		TLSClientConfig:       secured,
	}
	dialer := net.Dialer{Timeout: dialTime}
	if strings.HasPrefix(address, httpsScheme) {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" || strings.TrimSuffix(strings.TrimPrefix(address, httpsScheme), "/") != u.Host {
			return nil, fmt.Errorf("--address: %s is not https:// with a host and a port", n.name)
		}
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), strings.TrimPrefix(caddy.DefaultRemoteAdminListen, ":"))
		}
		n.origin = httpsScheme + u.Host
		transport.DialContext = dialer.DialContext
	} else {
		at, err := caddy.ParseNetworkAddress(address)
		if err == nil && at.PortRangeSize() > 1 {
			err = errors.New("it has several ports")
		}
		if err != nil {
			return nil, fmt.Errorf("--address: %s is no address of an admin endpoint: %w", n.name, err)
		}
		n.origin = "http://" + at.JoinHostPort(0)
		if n.isSite = !at.IsUnixNetwork() && !at.IsFdNetwork(); !n.isSite {
			n.origin = "http://127.0.0.1"             // Caddy allows this one at sockets
			at.Host, _, _ = strings.Cut(at.Host, "|") // where the file's permissions follow
		}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, at.Network, at.JoinHostPort(0))
		}
	}
	n.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	return n, nil
}

// ask does a request to the API. body and answer are JSON; a body of nil is
// none.
func (n *node) ask(method, path string, body, answer any) error {
	return n.askWithin(requestTime, method, path, body, answer)
}

func (n *node) askWithin(limit time.Duration, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	req, err := n.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return n.unreachable(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if resp.StatusCode >= http.StatusMultipleChoices {
		return n.refused(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading what %s answers: %w", n.name, err)
	}
	return nil
}

func (n *node) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, n.origin+admin.Prefix+path, reader)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if n.isSite {
		req.Header.Set("Origin", n.origin)
	}
	return req, nil
}

// unreachable makes a message for operators, who do not have to know the path.
func (n *node) unreachable(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	// What TLS has to say net/http may tell with the name of a function of its own.
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
		err = alert
	}
	return &unreachableError{n.name, printable.Text(err.Error())}
}

// refused makes a message of an answer that is an error.
func (n *node) refused(resp *http.Response) error {
	const longest = 1 << 20
	body, err := io.ReadAll(io.LimitReader(resp.Body, longest))
	if err != nil {
		return n.unreachable(err)
	}
	var answer struct {
		Error string `json:"error"`
	}
	switch {
	case json.Unmarshal(body, &answer) == nil && answer.Error != "":
		return &answerError{resp.StatusCode, answer.Error}
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the Caddy at %s does not have the module websocket_proxy", n.name)
	}
	return errors.New("caddy responded with error: HTTP " + strconv.Itoa(resp.StatusCode) + ": " + printable.Text(string(body)))
}

// upstreams asks for all upstreams.
func (n *node) upstreams() ([]admin.Upstream, error) {
	return n.upstreamsWithin(requestTime)
}

func (n *node) upstreamsWithin(limit time.Duration) ([]admin.Upstream, error) {
	var list admin.UpstreamList
	err := n.askWithin(limit, http.MethodGet, "upstreams", nil, &list)
	return list.Upstreams, err
}

// upstreamsThroughReload is upstreams while the configuration may be reloaded. A node
// that is away has had its time.
func (n *node) upstreamsThroughReload() ([]admin.Upstream, error) {
	patience, limit := reloadTime, requestTime
	if n.away {
		patience, limit = 0, awayTime
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(countInterval) {
		list, err := n.upstreamsWithin(limit)
		if err == nil || !time.Now().Before(deadline) {
			n.away = err != nil
			return list, err
		}
	}
}

// eachPage asks for the tunnels that match, page by page.
func (n *node) eachPage(filter url.Values, do func([]json.RawMessage) error) error {
	const page = "5000"
	filter.Set("limit", page)
	for {
		var list struct {
			Next    string            `json:"next"`
			Tunnels []json.RawMessage `json:"tunnels"`
		}
		if err := n.ask(http.MethodGet, "tunnels?"+filter.Encode(), nil, &list); err != nil {
			return err
		}
		if err := do(list.Tunnels); err != nil || list.Next == "" {
			return err
		}
		filter.Set("after", list.Next)
	}
}
