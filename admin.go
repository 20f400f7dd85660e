package websocketproxy

import (
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

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

const (
	// maxAdminBody bounds what is read of a request, in bytes.
	maxAdminBody = 1 << 16
	// longestPeriod bounds the time over which an operator may have tunnels
	// ended.
	longestPeriod = 24 * time.Hour
)

// adminAPI is the part of Caddy's admin endpoint where operators see and close
// tunnels, and empty upstreams:
//
//   - `GET /websocket_proxy/upstreams` lists upstreams
//   - `POST /websocket_proxy/upstreams/state` sets one to `ready`, `drain` or
//     `evict`
//   - `GET /websocket_proxy/tunnels` lists tunnels, or those that match
//     `upstream`, `client` (an IP address or CIDR range) and `handler`; `limit`
//     and `after` page through them
//   - `GET /websocket_proxy/tunnels/{id}` shows one
//   - `DELETE /websocket_proxy/tunnels/{id}` closes one, with `code` and `reason`
//   - `POST /websocket_proxy/tunnels/close` closes those that match, paced
//
// It exists with every configuration and is about the whole process.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.websocket_proxy",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes returns the routes of the API. Everything that they use belongs to the
// process, as nobody tells this module when its configuration is unloaded.
//
// The patterns have no methods: what the mux itself answers to a wrong method
// is no JSON, and neither logged nor counted by Caddy.
func (*adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/websocket_proxy/", Handler: caddy.AdminHandlerFunc(unknownPath)},
		{Pattern: "/websocket_proxy/upstreams", Handler: byMethod{http.MethodGet: listUpstreams}},
		{Pattern: "/websocket_proxy/upstreams/state", Handler: byMethod{http.MethodPost: setUpstreamState}},
		{Pattern: "/websocket_proxy/tunnels", Handler: byMethod{http.MethodGet: listTunnels}},
		{Pattern: "/websocket_proxy/tunnels/{id}", Handler: byMethod{
			http.MethodGet: showTunnel, http.MethodDelete: closeTunnel,
		}},
		{Pattern: "/websocket_proxy/tunnels/close", Handler: byMethod{http.MethodPost: closeTunnels}},
	}
}

// byMethod are the handlers of a path.
type byMethod map[string]caddy.AdminHandlerFunc

// ServeHTTP implements caddy.AdminHandler.
func (m byMethod) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if handler, ok := m[method]; ok {
		return handler(w, r)
	}
	allowed := slices.Sorted(maps.Keys(m))
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return adminError(http.StatusMethodNotAllowed, "the method is %s here, not %s",
		strings.Join(allowed, " or "), r.Method)
}

func unknownPath(http.ResponseWriter, *http.Request) error {
	return adminError(http.StatusNotFound, "there is /websocket_proxy/upstreams and /websocket_proxy/tunnels")
}

// adminError is an answer with a status and a cause.
func adminError(status int, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return caddy.APIError{HTTPStatus: status, Err: err, Message: err.Error()}
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	text, err := printable.JSON(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // to somebody who has left there is nothing to say
	return nil
}

// readJSON reads a request's body, which is one object with no other fields
// than v.
func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxAdminBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return adminError(http.StatusBadRequest, "the body is not the JSON object that belongs here: %w", err)
	}
	return nil
}

// readQuery returns a request's parameters. Those that are not among names are
// refused, as a filter that is misspelled would mean every tunnel.
func readQuery(r *http.Request, names ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, "reading the parameters: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case len(names) == 0:
			return nil, adminError(http.StatusBadRequest, "there are no parameters here, such as %q", name)
		case !slices.Contains(names, name):
			return nil, adminError(http.StatusBadRequest, "the parameters are %s, not %q", strings.Join(names, ", "), name)
		case len(query[name]) > 1:
			return nil, adminError(http.StatusBadRequest, "%s is given %d times", name, len(query[name]))
		}
	}
	return query, nil
}

// seconds makes a duration of a number in a request.
func seconds(name string, n float64, longest time.Duration) (time.Duration, error) {
	// Written so that NaN fails it.
	if !(n >= 0 && n <= longest.Seconds()) {
		return 0, adminError(http.StatusBadRequest, "%s is a number of seconds from 0 to %.0f, not %g",
			name, longest.Seconds(), n)
	}
	return time.Duration(n * float64(time.Second)), nil
}

// Interface guards
var (
	_ caddy.Module       = (*adminAPI)(nil)
	_ caddy.AdminRouter  = (*adminAPI)(nil)
	_ caddy.AdminHandler = byMethod(nil)
)
