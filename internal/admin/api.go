// Package admin is the API by which operators see and close tunnels, and take
// upstreams out of service: its types, which the commands use too, and its routes
// for net/http. It knows what may be asked, how that is answered, and by [Process]
// where tunnels and upstreams are. It must not know Caddy. It has no lock.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Prefix is where all paths of the API are.
const Prefix = "/websocket_proxy/"

const (
	// maxBody bounds what is read of a request, in bytes.
	maxBody = 1 << 16
	// LongestPeriod bounds the time over which an operator may have tunnels
	// ended.
	LongestPeriod = 24 * time.Hour
)

// Backend is where tunnels and upstreams are. All of it may be called at any time,
// by several goroutines.
type Backend interface {
	// Tunnels returns the live tunnels that match.
	Tunnels(*Filter) []LiveTunnel
	// Tunnel returns a live tunnel by its id, or false if there is none.
	Tunnel(id string) (LiveTunnel, bool)
	// Close begins to end tunnels, spread evenly over a period, those first in which
	// nothing has happened for the longest time.
	Close(tunnels []LiveTunnel, period time.Duration, code uint16, reason string)

	// Upstreams returns all that are configured, have tunnels or have been given a
	// state, by address.
	Upstreams() []Upstream
	// Upstream returns what is known of an address, or false if nothing is.
	Upstream(address string) (Upstream, bool)
	// SetState gives an upstream a state, and tells whether its address means
	// another backend on every machine. The error is why it could not be stored.
	SetState(ctx context.Context, address string, s upstream.State) (local bool, problem error)
}

// LiveTunnel is a tunnel while it is open, or shortly after.
type LiveTunnel interface {
	ID() string
	// Info is what operators see of it.
	Info(now time.Time) Tunnel
	// Close begins to end it, with a status and a text for the client.
	Close(code uint16, reason string)
	// Renew has it expire after so much more time, and tells whether that is later than
	// before.
	Renew(left time.Duration) bool
}

// Route is a path of the API.
type Route struct {
	// Pattern is one of net/http, without a method: what the mux itself answers to
	// a wrong method is no JSON, and neither logged nor counted by Caddy.
	Pattern string
	// Methods are its handlers, by method. None means that the path does not exist.
	Methods map[string]HandlerFunc
}

// HandlerFunc answers a request, or returns an error, which is to be the answer.
type HandlerFunc func(http.ResponseWriter, *http.Request) error

// server has the handlers.
type server struct{ Backend }

// Routes returns all paths, and one for those that do not exist.
func Routes(b Backend) []Route {
	a := &server{b}
	return []Route{
		{Pattern: Prefix},
		{Prefix + "upstreams", map[string]HandlerFunc{http.MethodGet: a.listUpstreams}},
		{Prefix + "upstreams/state", map[string]HandlerFunc{http.MethodPost: a.setState}},
		{Prefix + "tunnels", map[string]HandlerFunc{http.MethodGet: a.listTunnels}},
		{Prefix + "tunnels/{id}", map[string]HandlerFunc{
			http.MethodGet: a.showTunnel, http.MethodDelete: a.closeTunnel,
		}},
		{Prefix + "tunnels/renew", map[string]HandlerFunc{http.MethodPost: a.renewTunnels}},
		{Prefix + "tunnels/close", map[string]HandlerFunc{http.MethodPost: a.closeTunnels}},
	}
}

// ServeHTTP is the [HandlerFunc] of the path.
func (r Route) ServeHTTP(w http.ResponseWriter, req *http.Request) error {
	if r.Methods == nil {
		return refuse(http.StatusNotFound, "there is /websocket_proxy/upstreams and /websocket_proxy/tunnels")
	}
	method := req.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if handler, ok := r.Methods[method]; ok {
		return handler(w, req)
	}
	allowed := slices.Sorted(maps.Keys(r.Methods))
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return refuse(http.StatusMethodNotAllowed, "the method is %s here, not %s",
		strings.Join(allowed, " or "), req.Method)
}

// Error is why a request is refused, and the status to answer with.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func refuse(status int, format string, args ...any) error {
	return &Error{status, fmt.Errorf(format, args...)}
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	text, err := printable.JSON(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// To somebody who has left there is nothing to say.
	_, _ = w.Write(append(text, '\n')) //nolint:gosec // it is JSON
	return nil
}

// readJSON reads a request's body, which is one object with no other fields
// than v.
func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "the body is not the JSON object that belongs here: %w", err)
	}
	return nil
}

// readQuery returns a request's parameters. Those that are not among names are
// refused, as a filter that is misspelled would mean every tunnel.
func readQuery(r *http.Request, names ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "reading the parameters: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case len(names) == 0:
			return nil, refuse(http.StatusBadRequest, "there are no parameters here, such as %q", name)
		case !slices.Contains(names, name):
			return nil, refuse(http.StatusBadRequest, "the parameters are %s, not %q", strings.Join(names, ", "), name)
		case len(query[name]) > 1 && name != "label":
			return nil, refuse(http.StatusBadRequest, "%s is given %d times", name, len(query[name]))
		}
	}
	return query, nil
}

// seconds makes a duration of a number in a request.
func seconds(name string, n float64, longest time.Duration) (time.Duration, error) {
	// Written so that NaN fails it.
	if !(n >= 0 && n <= longest.Seconds()) {
		return 0, refuse(http.StatusBadRequest, "%s is a number of seconds from 0 to %.0f, not %g",
			name, longest.Seconds(), n)
	}
	return time.Duration(n * float64(time.Second)), nil
}
